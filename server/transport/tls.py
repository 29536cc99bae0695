"""TLS connections: WebSockets of the plane like all others; two tasks carry their bytes.

    reader task: stream.receive_some -> plane.feed -> end of turn
    writer task: carrier.take -> stream.send_all -> plane.sent -> end of turn; waits when there is nothing

The plane decides what to send next, and which clients are slow, silent or lost, with the same code as for plain
connections. The two tasks live and die together, with the plane's socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from server.secure import TlsStream

if TYPE_CHECKING:
    from ext.net.carrier import Carrier
    from ext.net.plane import Plane
    from ext.net.socket import Socket

READ_BYTES = 64 * 1024  # per read


class Carriage:
    """Connects a stream with a socket of the plane. The socket's carrier calls ``wake``."""

    def __init__(
        self, stream: TlsStream, plane: Plane, begin_turn: Callable[[], object], end_of_turn: Callable[[], object]
    ) -> None:
        self._stream = stream
        self._plane = plane
        self._begin_turn = begin_turn
        self._end_of_turn = end_of_turn
        self._carrier: Carrier | None = None
        self._news = trio.Event()
        self._life = trio.CancelScope()

    def wake(self) -> None:
        """The carrier has bytes to take, or its flags have changed."""
        news, self._news = self._news, trio.Event()
        news.set()
        if self._carrier is not None and self._carrier.ended:
            self._life.cancel()  # even if a send hangs

    async def run(self, socket: Socket) -> None:
        """Run until the plane has released the socket, which is ensured however this ends. The stream stays open."""
        carrier = self._carrier = socket.carrier
        assert carrier is not None
        try:
            with self._life:
                if not carrier.ended:
                    async with trio.open_nursery() as pair:
                        pair.start_soon(self._read, socket, carrier)
                        pair.start_soon(self._write, socket, carrier)
        finally:
            if not carrier.ended:
                self._plane.lost(socket, "connection lost")
            self._end_of_turn()

    async def _read(self, socket: Socket, carrier: Carrier) -> None:
        while True:
            data = await self._stream.receive_some(READ_BYTES)
            while not carrier.reading:
                await self._news.wait()
            self._begin_turn()
            self._plane.feed(socket, data)
            self._end_of_turn()

    async def _write(self, socket: Socket, carrier: Carrier) -> None:
        said_end = False
        while True:
            data = carrier.take()
            if data:
                await self._stream.send_all(data)
                if self._plane.sent(socket):
                    self._end_of_turn()
            elif carrier.finished and not said_end:
                said_end = True
                await self._stream.send_eof()  # then the peer closes, or the plane's wait times out
            else:
                await self._news.wait()
