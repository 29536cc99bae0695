"""What a good engineer would write in plain Python for ext.net.plane: a selectors loop, a deque of frames per socket.

    recv -> FrameDecoder -> messages        send <- join of what its deque holds <- fan_out

Frames are split by the compiled decoder here too, so that what is compared is the moving of bytes."""

from __future__ import annotations

import selectors
import socket
from collections import deque

from ext.wire.frame import FrameDecoder

RECEIVE_BYTES = 256 * 1024
SEND_BYTES = 256 * 1024


class PlainSocket:
    """One connection: a decoder, and what waits to be sent."""

    __slots__ = ("closed", "decoder", "owner", "pending", "socket", "writing")

    def __init__(self, connection: socket.socket, owner: object, max_message: int) -> None:
        self.socket = connection
        self.owner = owner
        self.decoder = FrameDecoder(max_message)
        self.pending: deque[bytes] = deque()
        self.writing = self.closed = False


class PlainPlane:
    """All connections of one thread."""

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._selector = selectors.DefaultSelector()
        self._dirty: list[PlainSocket] = []
        self.sockets: list[PlainSocket] = []

    def add(self, connection: socket.socket, owner: object) -> PlainSocket:
        connection.setblocking(False)
        one = PlainSocket(connection, owner, self._max_message)
        self._selector.register(connection, selectors.EVENT_READ, one)
        self.sockets.append(one)
        return one

    def fan_out(self, frames: list[bytes]) -> None:
        """The same frames for everybody, shared and not copied; what the sockets take is sent at once."""
        for one in self.sockets:
            if not one.pending:
                self._dirty.append(one)
            one.pending.extend(frames)
        self._flush()

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for one in dirty:
            self._send(one)

    def poll(self) -> list[tuple[object, int, bytes]]:
        """Everything that has arrived: owner, kind, payload."""
        events: list[tuple[object, int, bytes]] = []
        for key, mask in self._selector.select(0):
            one: PlainSocket = key.data
            if mask & selectors.EVENT_WRITE:
                self._send(one)
            if mask & selectors.EVENT_READ and not one.closed:
                try:
                    data = one.socket.recv(RECEIVE_BYTES)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    self._end(one)
                    continue
                owner = one.owner
                for event in one.decoder.receive(data):
                    events.append((owner, event.kind, event.payload))
        return events

    def _send(self, one: PlainSocket) -> None:
        pending = one.pending
        while pending and not one.closed:
            data = b"".join(pending)  # one call for all, which is what costs
            pending.clear()
            try:
                sent = one.socket.send(data[:SEND_BYTES])
            except BlockingIOError:
                sent = 0
            except OSError:
                self._end(one)
                return
            if sent < len(data):
                pending.append(data[sent:])
                if sent < min(len(data), SEND_BYTES):
                    break
        if bool(pending) != one.writing and not one.closed:
            one.writing = not one.writing
            mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if one.writing else 0)
            self._selector.modify(one.socket, mask, one)

    def _end(self, one: PlainSocket) -> None:
        one.closed = True
        self._selector.unregister(one.socket)
        self.sockets.remove(one)
        one.socket.close()

    def close(self) -> None:
        for one in list(self.sockets):
            self._end(one)
        self._selector.close()
