"""The rows of the comparison, and one measurement of one of them: a server, connections, the load, the figures.

1 fan-out, 64 in flight    2 fan-out, one in flight    3 pairs        4 ingest, 64 in flight    5 ingest, one
6 one publisher, one in flight                         7 ten messages a second to a thousand    8 replay"""

from __future__ import annotations

import re
import resource
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from bench.peers import dialects, pump, servers
from bench.peers.dialects import Dialect, Step
from bench.peers.pump import End, Load
from bench.peers.servers import Peer, Running

PAYLOAD_BYTES = 128
AT_ONCE = 64  # connections that are opened together: within every peer's backlog
ANSWER_SECONDS = 20
FAN_OUT = ("unbroken", "unbroken-memory", "nats", "redis", "nchan", "mosquitto-0", "mosquitto-1", "socketio")
ACKNOWLEDGING = (
    "unbroken",
    "unbroken-memory",
    "jetstream-synced",
    "jetstream",
    "redis-stream",
    "nchan",
    "mosquitto-1",
    "socketio",
)


@dataclass(frozen=True, slots=True)
class Row:
    """``subscribers`` and ``publishers`` are spread over the channels in turn."""

    number: int
    title: str
    peers: tuple[str, ...]
    load: Load
    publishers: int
    subscribers: int = 0
    channels: int = 1
    unit: str = "deliveries"  # or "acks": what its throughput counts


ROWS = {
    row.number: row
    for row in (
        Row(1, "fan-out to 1,000 subscribers, 64 in flight", FAN_OUT, Load(64), 1, 1000),
        Row(2, "fan-out to 1,000 subscribers, one in flight", FAN_OUT, Load(1, spin=True), 1, 1000),
        Row(
            3,
            "64 publishers to 64 subscribers in pairs, 16 in flight each",
            (*FAN_OUT[:3], "jetstream-synced", "jetstream", *FAN_OUT[3:]),
            Load(16),
            64,
            64,
            64,
        ),
        Row(4, "ingest, 16 publishers, 64 in flight each", ACKNOWLEDGING, Load(64), 16, 0, 16, unit="acks"),
        Row(5, "ingest, 64 publishers, one in flight each", ACKNOWLEDGING, Load(1, spin=True), 64, 0, 64, unit="acks"),
        Row(6, "one publisher, one in flight", ACKNOWLEDGING, Load(1, spin=True), 1, unit="acks"),
        Row(7, "10 messages a second to 1,000 subscribers", FAN_OUT, Load(rate=10, seconds=3, spin=True), 1, 1000),
        Row(
            8,
            "replay of 100,000 stored messages to one subscriber",
            ("unbroken-ring", "unbroken-journal", "jetstream", "redis-stream", "nchan"),
            Load(64),
            1,
        ),
    )
}


class Refused(Exception):
    """The peer did not answer as it should have."""


def measure(row: Row, peer: Peer, path: str, *, core: int | None) -> dict[str, Any]:
    """The figures of one run. Raises: servers.Missing, Refused, OSError."""
    _raise_descriptors(row.publishers + row.subscribers)
    with servers.running(peer, path, core=core) as server:
        return _replay(row, peer, server) if row.number == 8 else _flow(row, peer, server)


def _flow(row: Row, peer: Peer, server: Running) -> dict[str, Any]:
    dialect = peer.dialect()
    rooms = [f"room{number:03d}" for number in range(row.channels)]
    with ExitStack() as stack:
        idle = server.memory_bytes()
        _open(server.port, [dialect.prepare(rooms)], stack)
        ends = [
            End(subscriber, number % row.channels)
            for number, subscriber in enumerate(
                _open(server.port, [dialect.subscriber(rooms[n % row.channels]) for n in range(row.subscribers)], stack)
            )
        ] + _publishers(row, dialect, rooms, server, stack)
        outcome = pump.run(ends, row.load, ack=dialect.ack, pids=server.pids)
        memory = server.memory_bytes()
    if not outcome.seconds:
        raise Refused(
            f"it was over before it was measured: {outcome.closed} connections cut off, {outcome.sent} "
            f"messages sent, {outcome.acked} acknowledged, {outcome.delivered} delivered"
        )
    counted = outcome.span_acked if row.unit == "acks" else outcome.span_delivered
    figures = {
        "rate": None if row.load.rate else counted / outcome.seconds,
        "server_us": outcome.server_seconds / counted * 1e6 if counted and outcome.server_seconds else None,
        "server_share": outcome.server_seconds / outcome.seconds,
    }
    latency = outcome.latency if row.subscribers else outcome.ack_latency
    for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("p100", 1.0)):
        figures[f"{name}_us"] = pump.percentile(latency, part)
        if dialect.ack:
            figures[f"ack_{name}_us"] = pump.percentile(outcome.ack_latency, part)
    return figures | {
        "rss_mib": memory / 2**20,
        "idle_mib": idle / 2**20,
        "load_share": outcome.load_share,
        "late_ms": outcome.late_ms,
        "sent": outcome.sent,
        "lost": outcome.lost,
        "repeats": outcome.repeats,
        "inversions": outcome.inversions,
        "unacknowledged": outcome.sent - outcome.acked if dialect.ack else 0,
        "cut_off": outcome.closed,
    }


def _replay(row: Row, peer: Peer, server: Running) -> dict[str, Any]:
    """Store, then read back from a cursor before the first; the reader's time counts from its request on."""
    room = "room000"
    dialect: Any = peer.dialect()
    with ExitStack() as stack:
        idle = server.memory_bytes()
        _open(server.port, [dialect.prepare([room])], stack)
        if peer.ours:
            request = dialect.attach(room, _cursor(server.port, dialect, room, stack))
            opening = dialect.publisher(room, 0)
        elif isinstance(dialect, dialects.JetStream):
            request, opening = dialect.read_all(), dialect.reader()
        elif isinstance(dialect, dialects.Nchan):
            request, opening = dialect.read_all(room), []
        else:
            request, opening = dialect.read_all(room), dialect.publisher(room, 0)
        load = replace(row.load, count=peer.replayed)
        stored = pump.run(_publishers(row, dialect, [room], server, stack), load, ack=dialect.ack)
        if stored.acked != peer.replayed:
            raise Refused(f"{peer.title} acknowledged {stored.acked:,} of {peer.replayed:,} messages")
        (reader,) = _open(server.port, [opening], stack)
        read = pump.replay(reader, request, peer.replayed, pids=server.pids)
        memory = server.memory_bytes()
    return {
        "rate": read.got / read.seconds if read.seconds else 0.0,
        "server_us": read.server_seconds / read.got * 1e6 if read.got else None,
        "server_share": read.server_seconds / read.seconds if read.seconds else None,
        "rss_mib": memory / 2**20,
        "idle_mib": idle / 2**20,
        "sent": peer.replayed,
        "lost": peer.replayed - read.got,
        "repeats": read.repeats,
        "inversions": read.inversions,
        "unacknowledged": 0,
        "cut_off": 0,
    }


def _publishers(row: Row, dialect: Dialect, rooms: Sequence[str], server: Running, stack: ExitStack) -> list[End]:
    names = [rooms[number % len(rooms)] for number in range(row.publishers)]
    opened = _open(server.port, [dialect.publisher(name, number) for number, name in enumerate(names)], stack)
    return [
        End(publisher, number % len(rooms), dialect.template(names[number], number, PAYLOAD_BYTES))
        for number, publisher in enumerate(opened)
    ]


def _cursor(port: int, dialect: dialects.Unbroken, room: str, stack: ExitStack) -> str:
    """Where the channel begins: what an attachment before the first message is told."""
    open_, attach = dialect.subscriber(room)
    (reader,) = _open(port, [[open_]], stack)
    reader.sendall(attach.send)
    answer = _read_until(reader, attach.expect)
    found = re.search(rb'"channelSerial":"([^"]+)"', answer)
    while found is None:
        answer += _received(reader)
        found = re.search(rb'"channelSerial":"([^"]+)"', answer)
    reader.close()
    return found.group(1).decode()


def _open(port: int, openings: Sequence[Sequence[Step]], stack: ExitStack) -> list[socket.socket]:
    """A connection for each, taken through its steps, some at once. Raises: Refused."""
    opened: list[socket.socket] = []
    for start in range(0, len(openings), AT_ONCE):
        group = []
        for steps in openings[start : start + AT_ONCE]:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            group.append((client, list(steps)))
        for turn in range(max(len(steps) for _, steps in group)):
            going = [(client, steps[turn]) for client, steps in group if turn < len(steps)]
            for client, step in going:
                client.sendall(step.send)
            for client, step in going:
                _read_until(client, step.expect)
        opened += [client for client, _ in group]
    return opened


def _read_until(client: socket.socket, expected: bytes) -> bytes:
    answer = b""
    while expected not in answer:
        try:
            data = _received(client)
        except TimeoutError:
            raise Refused(f"awaited {expected!r}, and got {answer[-300:]!r} in {ANSWER_SECONDS} s") from None
        except Refused:
            raise Refused(f"awaited {expected!r}, and the connection ended after {answer[-300:]!r}") from None
        answer += data
    return answer


def _received(client: socket.socket) -> bytes:
    data = client.recv(65536)
    if not data:
        raise Refused("the connection ended")
    return data


def _raise_descriptors(connections: int) -> None:
    """As many as allowed, for us and for the servers that inherit it. Raises: OSError, if that is too few."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < connections + 100:
        raise OSError(f"{connections} connections need ulimit -n {connections + 100}; the hard limit here is {hard}")
