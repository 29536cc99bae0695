"""A TCP proxy that misbehaves on command: one thread, one selector, and bytes counted one by one.

client --upstream--> proxy --upstream--> server
       <-downstream-       <-downstream-

cut()                        every connection ends now, with a reset
cut_after(downstream=1000)   it ends when exactly so many further bytes went that way: in the middle of a frame
stall(), flow()              nothing is forwarded and nothing is read; then all of it is
refuse(), accept()           new connections are reset at once
delay(seconds)               each piece is held so long before it goes on"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

PIECE = 64 * 1024  # bytes of one recv
HELD = 256 * 1024  # bytes that the proxy holds for one direction before it stops reading
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends a reset and forgets what was not sent


class _Direction:
    """The way of bytes from one socket to another."""

    def __init__(self, source: socket.socket, sink: socket.socket, *, down: bool) -> None:
        self.source, self.sink, self.down = source, sink, down
        self.pieces: deque[tuple[float, bytes]] = deque()  # when it may go, what
        self.held = 0
        self.ended = False  # the source has no more
        self.said_end = False
        self.left: int | None = None  # bytes until the cut


class _Pair:
    """One client's connection, and the proxy's own to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.sockets = (client, server)
        self.up = _Direction(client, server, down=False)
        self.down = _Direction(server, client, down=True)


class ChaosProxy:
    """Stands before ``target`` from the moment that it is made; close it in the end."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.connections = 0  # accepted and forwarded so far
        self._pairs: list[_Pair] = []
        self._stalled = self._refusing = self._closing = False
        self._delay = 0.0
        self._cut: tuple[int | None, int | None] = (None, None)
        self._commands: deque[tuple[Callable[[], object], threading.Event]] = deque()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._bell, self._ear = socket.socketpair()
        self._ear.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", int(self._listener.getsockname()[1]))

    @property
    def port(self) -> int:
        return self.address[1]

    # commands: each has been carried out when it returns

    def cut(self) -> None:
        def end_all() -> None:
            for pair in list(self._pairs):
                self._end(pair)

        self._do(end_all)

    def cut_after(self, *, downstream: int | None = None, upstream: int | None = None) -> None:
        """Each connection, those to come too, ends after so many more bytes; None: no such end. The last call holds."""

        def count() -> None:
            self._cut = (downstream, upstream)
            for pair in self._pairs:
                pair.down.left, pair.up.left = downstream, upstream

        self._do(count)

    def stall(self) -> None:
        self._do(lambda: setattr(self, "_stalled", True))

    def flow(self) -> None:
        self._do(lambda: setattr(self, "_stalled", False))

    def refuse(self) -> None:
        self._do(lambda: setattr(self, "_refusing", True))

    def accept(self) -> None:
        self._do(lambda: setattr(self, "_refusing", False))

    def delay(self, seconds: float) -> None:
        self._do(lambda: setattr(self, "_delay", seconds))

    def close(self) -> None:
        self._do(lambda: setattr(self, "_closing", True))
        self._thread.join()

    def _do(self, command: Callable[[], object]) -> None:
        """Only the proxy's own thread touches its state, so nothing there needs a lock."""
        done = threading.Event()
        self._commands.append((command, done))
        with contextlib.suppress(BlockingIOError):  # the bell is full: it will be heard
            self._bell.send(b"!")
        done.wait()

    # the thread

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(self._arrange()):
                if key.fileobj is self._ear:
                    self._ear.recv(PIECE)
            while self._commands:
                command, done = self._commands.popleft()
                command()
                done.set()
            self._accept_all()
            for pair in list(self._pairs):
                self._move(pair)
        for pair in list(self._pairs):
            self._end(pair)
        for one in (self._listener, self._bell, self._ear):
            one.close()
        self._selector.close()

    def _arrange(self) -> float | None:
        """Tell the selector what matters now; returns how long to wait at most, because of delayed pieces."""
        wanted: dict[socket.socket, int] = {self._listener: selectors.EVENT_READ, self._ear: selectors.EVENT_READ}
        earliest: float | None = None
        for way in [] if self._stalled else [way for pair in self._pairs for way in (pair.up, pair.down)]:
            if not way.ended and way.held < HELD:
                wanted[way.source] = wanted.get(way.source, 0) | selectors.EVENT_READ
            if way.pieces and way.pieces[0][0] <= time.monotonic():
                wanted[way.sink] = wanted.get(way.sink, 0) | selectors.EVENT_WRITE
            elif way.pieces:
                earliest = way.pieces[0][0] if earliest is None else min(earliest, way.pieces[0][0])
        watched = {key.fileobj: key.events for key in self._selector.get_map().values()}
        for one in watched.keys() - wanted.keys():
            self._selector.unregister(one)
        for one, events in wanted.items():
            if one not in watched:
                self._selector.register(one, events)
            elif watched[one] != events:
                self._selector.modify(one, events)
        return None if earliest is None else max(0.0, earliest - time.monotonic())

    def _accept_all(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            if self._refusing:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self.target, timeout=5)
            except OSError:
                _reset(client)
                continue
            for one in (client, server):
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            pair.down.left, pair.up.left = self._cut
            self._pairs.append(pair)
            self.connections += 1

    def _move(self, pair: _Pair) -> None:
        if self._stalled:
            return
        try:
            for way in (pair.up, pair.down):
                self._read(way)
                if self._write(way):
                    self._end(pair)
                    return
        except OSError:
            self._end(pair)
            return
        if pair.up.said_end and pair.down.said_end:
            self._end(pair, reset=False)

    def _read(self, way: _Direction) -> None:
        while not way.ended and way.held < HELD:
            try:
                data = way.source.recv(PIECE)
            except BlockingIOError:
                return
            if data:
                way.pieces.append((time.monotonic() + self._delay, data))
                way.held += len(data)
            else:
                way.ended = True

    def _write(self, way: _Direction) -> bool:
        """Send on what may go; True: so much has gone that the connection is to be cut."""
        while way.pieces and way.pieces[0][0] <= time.monotonic():
            due, data = way.pieces[0]
            allowed = data if way.left is None else data[: way.left]
            try:
                sent = way.sink.send(allowed) if allowed else 0
            except BlockingIOError:
                return False
            way.held -= sent
            if way.left is not None:
                way.left -= sent
                if way.left == 0:
                    return True
            if sent == len(data):
                way.pieces.popleft()
            else:
                way.pieces[0] = (due, data[sent:])
        if way.ended and not way.pieces and not way.said_end:
            way.said_end = True
            way.sink.shutdown(socket.SHUT_WR)
        return False

    def _end(self, pair: _Pair, *, reset: bool = True) -> None:
        self._pairs.remove(pair)
        cut_downstream = pair.down.left == 0
        for one in pair.sockets:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(one)
            # What was counted must arrive at the client before the end does: no reset there after a counted cut.
            if reset and not (cut_downstream and one is pair.sockets[0]):
                _reset(one)
            else:
                one.close()


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    one.close()
