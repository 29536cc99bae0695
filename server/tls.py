"""TLS connections: they stay with trio-websocket for their life, and read the same streams as everybody else.

    reader task: get_message -> client.receive -> end of turn
    writer task: own queue first, then the streams it follows, frame by frame; parks when there is nothing

The two live and die together. A plain connection has neither: its socket moves into the plane."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from ext.frame import FrameDecoder

if TYPE_CHECKING:
    from ext.ring import Stream
    from server.handshake import Upgrade
    from server.protocol import ClientProtocol

LOGGER = logging.getLogger("unbroken.tls")
READ_BYTES = 64 * 1024  # of a stream at a time: one TLS record is 16 KiB, and others wait meanwhile
QUEUE_BYTES = 256 * 1024  # who leaves so much of our replies unread is not read from
CLOSE_SECONDS = 5.0  # for the peer's half of the closing handshake
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

    def stop(self) -> None:
        if self.active:
            self.active = False
            self._transport.readers.remove(self)
            if not any(other.stream is self.stream for other in self._transport.readers):
                self.stream.parked.discard(self._transport)


class TlsTransport:
    """What a client's protocol sees of a TLS connection; the same as the plane's socket."""

    def __init__(self, websocket: WebSocketConnection, *, text: bool, heartbeat: bytes) -> None:
        self.readers: list[TlsReader] = []
        self.owner: ClientProtocol | None = None
        self.closed = False
        self._websocket = websocket
        self._text = text
        self._heartbeat = heartbeat
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._news = trio.Event()
        self._readable = trio.Event()
        self._readable.set()
        self._paused = False
        self._want_drained = False
        self._goodbye: tuple[int, str] | None = None

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

    def notify_drained(self) -> None:
        self._want_drained = True
        self._news.set()

    def subscribe(self, stream: Stream, place: int, *, skip_origin: int = 0, quiet_until: int = 0) -> TlsReader:
        reader = TlsReader(self, stream, place, skip_origin, quiet_until)
        self.readers.append(reader)
        self._news.set()
        return reader

    def pause(self) -> None:
        self._paused = True
        self._regulate()

    def resume(self) -> None:
        self._paused = False
        self._regulate()

    def close(self, code: int, reason: str = "") -> None:
        self._goodbye = (code, reason)
        self.closed = True
        self.owner = None
        self._news.set()

    # what the streams call

    def wake(self) -> None:
        """A stream that it follows has grown."""
        self._news.set()

    def _regulate(self) -> None:
        if self._paused or self._queued > QUEUE_BYTES:
            if self._readable.is_set():
                self._readable = trio.Event()
        else:
            self._readable.set()

    # the two tasks

    async def read(self, end_of_turn: Callable[[], None]) -> None:
        """Until the peer is gone."""
        while True:
            await self._readable.wait()
            message = await self._websocket.get_message()
            owner = self.owner
            if owner is None:
                continue
            if isinstance(message, str):
                owner.receive(message.encode(), 0)
            else:
                owner.receive(message, 1)
            end_of_turn()

    async def write(self, heartbeat_seconds: float) -> None:
        """Until goodbye has been said."""
        while True:
            self._news = trio.Event()
            while self._queue:
                payload = self._queue.popleft()
                self._queued -= len(payload)
                self._regulate()
                await self._send(payload)
            if self._goodbye is not None:
                with trio.move_on_after(CLOSE_SECONDS):
                    await self._websocket.aclose(*self._goodbye)
                return
            if self._want_drained and self.owner is not None and self.owner.drained is not None:
                self._want_drained = False
                drained, self.owner.drained = self.owner.drained, None
                drained()
            if await self._send_streams() or self._queue or self._news.is_set():
                continue
            with trio.move_on_after(heartbeat_seconds) as idle:
                await self._news.wait()
            if idle.cancelled_caught:
                await self._websocket.ping() if not self._heartbeat else await self._send(self._heartbeat)

    async def _send_streams(self) -> bool:
        """A part of what the streams hold for us; False: nothing, and we are parked at all of them."""
        busy = False
        for reader in list(self.readers):
            if not reader.active:
                continue
            found = reader.stream.read(
                reader.place, budget=READ_BYTES, skip_origin=reader.skip_origin, quiet_until=reader.quiet_until
            )
            if found is None:
                owner = self.owner
                if owner is not None:
                    owner.fell_behind(reader)
                busy = True
                continue
            place, frames = found
            if place == reader.place:
                reader.stream.parked.add(self)
                continue
            busy = True
            cursor = reader.stream.cursor_at(place)
            assert cursor is not None  # it was read just now
            reader.place, reader.cursor = place, cursor  # handed over: the stream may let go of it while we send
            for event in FrameDecoder(LARGEST_FRAME, client_side=True).receive(b"".join(frames)):
                await self._send(event.payload)
        return busy

    async def _send(self, payload: bytes) -> None:
        await self._websocket.send_message(payload.decode() if self._text else payload)


async def serve_tls_websocket(
    stream: trio.abc.Stream,
    shake_hands: Callable[..., Awaitable[tuple[Upgrade, WebSocketConnection]]],
    on_websocket: Callable[..., Any],
    handshake_seconds: float,
    max_message: int,
) -> None:
    """One TLS connection, from its handshake to its end."""
    try:
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(handshake_seconds) as scope:
                upgrade, websocket = await shake_hands(nursery, stream, max_message)
            if scope.cancelled_caught:
                nursery.cancel_scope.cancel()
                return
            await on_websocket(upgrade, websocket)
            nursery.cancel_scope.cancel()
    except* ConnectionClosed as gone:
        LOGGER.debug("peer gone: %r", gone.exceptions)
