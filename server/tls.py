"""TLS connections: they stay with trio-websocket for their life, and read the same streams as everybody else.

    reader task: get_message -> client.receive -> end of turn
    writer task: own queue first, then the streams that have grown, frame by frame; waits when there is nothing
    watch task:  pings who is silent, and ends the connection of who stays so

They live and die together. A plain connection has none of them: its socket moves into the plane.

A reader stands in ``stream.parked`` for as long as it reads, not only while it waits: a stream of which it still
sends a part is not unread, and must not be closed beneath it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from engine import limits
from ext.frame import FrameDecoder
from ext.ingest import Ingest

if TYPE_CHECKING:
    from ext.ring import Stream
    from ext.shaper import Shaper
    from server.handshake import Upgrade
    from server.protocol import ClientProtocol

LOGGER = logging.getLogger("unbroken.tls")
READ_BYTES = 64 * 1024  # of a stream at a time: one TLS record is 16 KiB, and others wait meanwhile
TURN_MS = 1_000  # between looks whether the turn of one who waits has come: others may have taken it
QUEUE_BYTES = 256 * 1024  # who leaves so much of our replies unread is not read from
CLOSE_SECONDS = 5.0  # for what is queued, the close frame, and the peer's half of the closing handshake
PARTING_SECONDS = 1.0  # the same when the server ends: it has waited for its clients before, and now they wait for it
# In heartbeats, as the plane has them: a silent peer is pinged, one that does not answer is lost. Who leaves bytes
# unread does not see our pings, so it has longer; it costs little, and TCP's own probes find out whether it is there.
PING_HEARTBEATS, LOST_HEARTBEATS, STALLED_HEARTBEATS = 2, 4, 16
LARGEST_FRAME = 1 << 30  # our own frames; no limit is needed against ourselves


class PrefixedStream(trio.abc.Stream):
    """A stream of which some bytes were read already."""

    def __init__(self, stream: trio.abc.Stream, prefix: bytes) -> None:
        self._stream = stream
        self._prefix = prefix

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._prefix:
            await trio.lowlevel.checkpoint()
            most = len(self._prefix) if max_bytes is None else max_bytes
            data, self._prefix = self._prefix[:most], self._prefix[most:]
            return data
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class TlsReader:
    """One reader of one stream, with a place; the writer task moves it on."""

    __slots__ = ("_transport", "active", "cursor", "place", "quiet_until", "skip_origin", "stream")

    def __init__(self, transport: TlsTransport, stream: Stream, place: int, skip_origin: int, quiet_until: int) -> None:
        cursor = stream.cursor_at(place)
        assert cursor is not None
        self._transport = transport
        self.stream = stream
        self.place = place
        self.cursor = cursor
        self.skip_origin = skip_origin
        self.quiet_until = quiet_until
        self.active = True
        stream.parked.add(self)

    def wake(self) -> None:
        """The stream has grown, and has taken us out of its set for that."""
        if self.active:
            self.stream.parked.add(self)
            self._transport.ready(self)

    def stop(self) -> None:
        if self.active:
            self.active = False
            self.stream.parked.discard(self)
            self._transport.readers.discard(self)


class TlsTransport:
    """What a client's protocol sees of a TLS connection; the same as the plane's socket."""

    def __init__(self, websocket: WebSocketConnection, *, text: bool, heartbeat: bytes) -> None:
        self.readers: set[TlsReader] = set()
        self.owner: ClientProtocol | None = None
        self.closed = False
        self.shaper: Shaper | None = None
        self._websocket = websocket
        self._text = text
        self._heartbeat = heartbeat
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._ready: dict[TlsReader, None] = {}  # their streams may hold something; in the order of its arrival
        self._news = trio.Event()
        self._readable = trio.Event()
        self._readable.set()
        self._paused = False
        self._want_drained = False
        self._goodbye: tuple[int, str] | None = None
        self._sink: Ingest | None = None
        self._life: trio.CancelScope | None = None  # of the writer, while it runs
        self._heard = 0.0  # when the peer last gave a sign of life
        self._sending = self._pinging = False

    # what the protocol calls

    def send(self, payload: bytes) -> None:
        if self._goodbye is None:
            self._queue.append(payload)
            self._queued += len(payload)
            self._regulate()
            self._news.set()

    def send_frames(self, frames: bytes) -> None:
        for event in FrameDecoder(LARGEST_FRAME, client_side=True).receive(frames):
            self.send(event.payload)

    @property
    def queued(self) -> int:
        return self._queued

    def notify_drained(self) -> None:
        self._want_drained = True
        self._news.set()

    def subscribe(self, stream: Stream, place: int, *, skip_origin: int = 0, quiet_until: int = 0) -> TlsReader:
        reader = TlsReader(self, stream, place, skip_origin, quiet_until)
        self.readers.add(reader)
        self.ready(reader)
        return reader

    def pause(self) -> None:
        self._paused = True
        self._regulate()

    def resume(self) -> None:
        self._paused = False
        self._regulate()

    def shape(self, shaper: Shaper | None) -> None:
        self.shaper = shaper

    def deliver_to(self, sink: Ingest | None) -> None:
        self._sink = sink

    def close(self, code: int, reason: str = "") -> None:
        if self._goodbye is None and self._life is not None:
            self._life.deadline = trio.current_time() + CLOSE_SECONDS  # also if it hangs in a send just now
        self._goodbye = (code, reason)
        self.closed = True
        self.owner = None
        self._news.set()

    # what its readers call

    def ready(self, reader: TlsReader) -> None:
        """Its stream may hold something for us."""
        self._ready[reader] = None
        self._news.set()

    def _regulate(self) -> None:
        if self._paused or self._queued > QUEUE_BYTES:
            if self._readable.is_set():
                self._readable = trio.Event()
        else:
            self._readable.set()

    # the tasks

    async def read(self, begin_turn: Callable[[], None], end_of_turn: Callable[[], object]) -> None:
        """Until the peer is gone."""
        while True:
            await self._readable.wait()
            message = await self._websocket.get_message()
            self._heard = trio.current_time()
            owner = self.owner
            if owner is None:
                continue
            begin_turn()
            payload, binary = (message.encode(), False) if isinstance(message, str) else (message, True)
            if self._sink is None or not self._sink.offer(payload, binary):
                owner.receive(payload, int(binary))
            end_of_turn()

    async def write(self, heartbeat_seconds: float) -> None:
        """Until goodbye has been said, or the peer is lost."""
        async with trio.open_nursery() as tasks:
            self._life = tasks.cancel_scope
            if self._goodbye is not None:
                self._life.deadline = trio.current_time() + CLOSE_SECONDS
            tasks.start_soon(self._watch, heartbeat_seconds, tasks)
            await self._write(heartbeat_seconds)
            tasks.cancel_scope.cancel()

    async def _write(self, heartbeat_seconds: float) -> None:
        while True:
            self._news = trio.Event()
            while self._queue:
                payload = self._queue.popleft()
                self._queued -= len(payload)
                self._regulate()
                await self._send(payload)
            if self._goodbye is not None:
                await self._websocket.aclose(*self._goodbye)
                return
            if self._want_drained and self.owner is not None and self.owner.drained is not None:
                self._want_drained = False
                drained, self.owner.drained = self.owner.drained, None
                drained()
            turn_ms = await self._send_streams()
            with trio.move_on_after(turn_ms / 1000 if turn_ms else heartbeat_seconds) as idle:
                await self._news.wait()
            if idle.cancelled_caught and self._heartbeat and not turn_ms:
                await self._send(self._heartbeat)

    async def _send_streams(self) -> int:
        """A part of what each grown stream holds for us; those that hold more are ready again.

        Returns: 0, or how many ms to wait for the turn of those that have to.
        """
        ready, self._ready = self._ready, {}
        turn_ms = 0
        for reader in ready:
            if not reader.active:
                continue
            shapers = [each for each in (self.shaper, reader.stream.shaper) if each is not None]
            wait_ms = max((each.wait_ms(time.time_ns() // 1_000_000) for each in shapers), default=0)
            if wait_ms:
                self._ready[reader] = None
                turn_ms = min(turn_ms or wait_ms, wait_ms, TURN_MS)
                continue
            found = reader.stream.read(
                reader.place,
                budget=limits.SHAPED_BYTES if shapers else READ_BYTES,
                skip_origin=reader.skip_origin,
                quiet_until=reader.quiet_until,
            )
            if found is None:
                if self.owner is not None:
                    self.owner.fell_behind(reader)
                continue
            place, frames = found
            if place == reader.place:
                continue
            cursor = reader.stream.cursor_at(place)
            assert cursor is not None  # it was read just now
            for shaper in shapers:
                shaper.take_frames(time.time_ns() // 1_000_000, reader.stream, reader.place, place, reader.skip_origin)
            reader.place, reader.cursor = place, cursor  # handed over: the stream may let go of it while we send
            if place != reader.stream.head:
                self.ready(reader)
            for event in FrameDecoder(LARGEST_FRAME, client_side=True).receive(b"".join(frames)):
                await self._send(event.payload)
        return turn_ms

    async def _send(self, payload: bytes) -> None:
        self._sending = True
        await self._websocket.send_message(payload.decode() if self._text else payload)
        self._sending = False

    async def _watch(self, heartbeat_seconds: float, tasks: trio.Nursery) -> None:
        """Until the peer is lost. A pong is waited for in a task of its own: deliveries go on meanwhile."""
        self._heard = trio.current_time()
        while True:
            await trio.sleep(heartbeat_seconds / 2)
            if not self._readable.is_set():  # it is we who do not listen
                self._heard = trio.current_time()
            silence = (trio.current_time() - self._heard) / heartbeat_seconds
            if silence >= (STALLED_HEARTBEATS if self._sending else LOST_HEARTBEATS):
                LOGGER.debug("peer lost: no answer to pings")
                tasks.cancel_scope.cancel()
                return
            if silence >= PING_HEARTBEATS and not self._pinging:
                self._pinging = True
                tasks.start_soon(self._ping)

    async def _ping(self) -> None:
        await self._websocket.ping()
        self._heard = trio.current_time()
        self._pinging = False


async def serve_tls_websocket(
    stream: trio.abc.Stream,
    shake_hands: Callable[..., Awaitable[tuple[Upgrade, WebSocketConnection]]],
    on_websocket: Callable[..., Any],
    handshake_seconds: float,
    max_message: int,
) -> None:
    """One TLS connection, from its handshake to its end. If cancelled, it has a moment left to say goodbye."""
    life = trio.CancelScope(shield=True)
    try:
        async with trio.open_nursery() as around:
            around.start_soon(_part, life)
            with life:
                async with trio.open_nursery() as nursery:
                    with trio.move_on_after(handshake_seconds) as scope:
                        upgrade, websocket = await shake_hands(nursery, stream, max_message)
                    if not scope.cancelled_caught:
                        await on_websocket(upgrade, websocket)
                    nursery.cancel_scope.cancel()
            around.cancel_scope.cancel()
    except* ConnectionClosed as gone:
        LOGGER.debug("peer gone: %r", gone.exceptions)


async def _part(life: trio.CancelScope) -> None:
    """When the server ends, so does what is left of ``life``, soon."""
    try:
        await trio.sleep_forever()
    finally:
        life.deadline = trio.current_time() + PARTING_SECONDS
