"""ext.net.plane beside a selectors loop, over real sockets: frames out to many, small messages in from some.

Both have the kernel's part in their price, and the peers' reading and writing is left out of it: what remains is what
a server pays for moving the bytes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.baselines_plane import PlainPlane
from ext.log.ring import Ring
from ext.log.stream import Stream
from ext.net.plane import TEXT, Plane
from ext.wire.frame import TEXT as FRAME_TEXT
from ext.wire.frame import encode_frame

READERS, WRITERS = 64, 16
BATCH = 64  # frames of one round
SIZE = 200
MAX_MESSAGE = 1 << 20
NOW_MS = 1_700_000_000_000
ROUNDS = 200
FRAMES = [encode_frame(FRAME_TEXT, b"%04d" % n + b"x" * (SIZE - 8)) for n in range(BATCH)]  # 4 bytes of header
WIRE = b"".join(FRAMES)
PAYLOADS = [b"%04d" % n + b"y" * 118 for n in range(BATCH)]


def masked(payload: bytes) -> bytes:
    key = os.urandom(4)
    return bytes([0x81, 0x80 | len(payload)]) + key + bytes(byte ^ key[n & 3] for n, byte in enumerate(payload))


SENT = b"".join(map(masked, PAYLOADS))


class Ext:
    """The plane, with one stream that all its sockets read, and the face of the other one."""

    def __init__(self) -> None:
        self._plane = Plane(
            max_message=MAX_MESSAGE, heartbeat_ms=10_000, ping_ms=20_000, lost_ms=40_000, linger_ms=5_000
        )
        self._ring = Ring(1024, 1 << 20)
        self._stream = Stream(self._ring, None)
        self._serial = 0
        self.poll = partial(self._plane.poll, NOW_MS)
        self.close = self._plane.close

    def add(self, connection: socket.socket, owner: object) -> None:
        handle = self._plane.add(connection.detach(), owner, msgpack=False, heartbeats=False, now_ms=NOW_MS)
        handle.subscribe(self._stream, self._stream.head)

    def fan_out(self, frames: list[bytes]) -> None:
        for frame in frames:
            self._serial += 1
            self._ring.append(self._serial, frame, len(frame))
            self._stream.append(frame)
        self._plane.moved([self._stream])
        while self._plane.flush():
            pass


@pytest.fixture
def connected() -> Iterator[Callable[[Any, int], list[socket.socket]]]:
    """Connect so many peers to one of the two, over loopback TCP; owners are the peers' numbers."""
    peers: list[socket.socket] = []
    planes: list[Any] = []

    def connect(plane: Any, count: int) -> list[socket.socket]:
        planes.append(plane)
        with socket.create_server(("127.0.0.1", 0), backlog=count) as server:
            for number in range(count):
                peer = socket.create_connection(server.getsockname())
                peer.settimeout(10)
                accepted, _ = server.accept()
                accepted.setblocking(False)
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plane.add(accepted, number)
                peers.append(peer)
        return peers

    yield connect
    for plane in planes:
        plane.close()
    for peer in peers:
        peer.close()


def in_rounds(benchmark: BenchmarkFixture, work: Callable[[], Any], *, setup: Callable[[], None]) -> Any:
    """What the last round of it returned; the set-up before each is not measured."""
    measure: Any = benchmark.pedantic  # it has no types
    return measure(work, setup=setup, rounds=ROUNDS, warmup_rounds=5)


makers = pytest.mark.parametrize("make", [partial(PlainPlane, MAX_MESSAGE), Ext], ids=["baseline", "ext"])


@pytest.mark.benchmark(group=f"plane: {BATCH} frames of {SIZE} B out to {READERS} sockets")
@makers
def test_fan_out(
    benchmark: BenchmarkFixture, connected: Callable[[Any, int], list[socket.socket]], make: Callable[[], Any]
) -> None:
    plane = make()
    peers = connected(plane, READERS)
    owed = 0

    def taken() -> None:
        """Before each round: every peer has read the one before, and nothing else."""
        nonlocal owed
        if owed:
            for peer in peers:
                assert peer.recv(len(WIRE), socket.MSG_WAITALL) == WIRE
        owed = 1

    in_rounds(benchmark, lambda: plane.fan_out(FRAMES), setup=taken)
    taken()


@pytest.mark.benchmark(group=f"plane: {BATCH} masked frames of 122 B in from each of {WRITERS} sockets")
@makers
def test_intake(
    benchmark: BenchmarkFixture, connected: Callable[[Any, int], list[socket.socket]], make: Callable[[], Any]
) -> None:
    plane = make()
    peers = connected(plane, WRITERS)
    expected = sorted((owner, TEXT, payload) for owner in range(WRITERS) for payload in PAYLOADS)

    def sent() -> None:
        for peer in peers:
            peer.sendall(SENT)

    def intake() -> list[Any]:
        events: list[Any] = []
        while len(events) < WRITERS * BATCH:
            events += plane.poll()
        return events

    events = in_rounds(benchmark, intake, setup=sent)
    assert sorted(events) == expected
    for owner in range(WRITERS):
        assert [payload for whose, _, payload in events if whose == owner] == PAYLOADS  # in their order
