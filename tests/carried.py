"""A plane whose sockets have no descriptors of their own, to be tested by the tests of one whose sockets have.

What the server's tasks do for a TLS connection is done here for each socket, whenever the plane is polled or flushed:

    peer <--> a real socket <--> Way: take, sent, feed, lost <--> the plane"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable
from typing import Any

from ext.net.plane import Plane
from ext.net.socket import Socket

RECEIVE_BYTES = 64 * 1024


class Way:
    """Carries one socket's bytes, as far as that goes without waiting."""

    def __init__(self, plane: Plane, ours: socket.socket, join: Callable[[Callable[[], object]], Socket]) -> None:
        self.news = 0
        self._plane = plane
        self._ours = ours
        self._left = memoryview(b"")
        self._handle = join(self.wake)

    def wake(self) -> None:
        self.news += 1

    def step(self) -> bool:
        """True: something has left, or come."""
        carrier = self._handle.carrier
        assert carrier is not None
        moved = False
        try:
            while not carrier.ended:
                if not self._left:
                    self._left = memoryview(carrier.take())
                if not self._left:
                    break
                self._left = self._left[self._ours.send(self._left) :]
                moved = True
                if not self._left:
                    self._plane.sent(self._handle)
            if carrier.finished and not carrier.ended:
                self._ours.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError as gone:
            self._plane.lost(self._handle, str(gone))
        try:
            while carrier.reading and not carrier.ended:
                self._plane.feed(self._handle, self._ours.recv(RECEIVE_BYTES))
                moved = True
        except BlockingIOError:
            pass
        except OSError as gone:
            self._plane.lost(self._handle, str(gone))
        return moved

    @property
    def ended(self) -> bool:
        assert self._handle.carrier is not None
        return self._handle.carrier.ended

    def close(self) -> None:
        self._ours.close()


class CarriedPlane:
    """Stands for a ``Plane``, with the same face; ``fd`` is readable when there may be something to do."""

    def __init__(self, **options: Any) -> None:
        self._plane = Plane(**options)
        self._epoll = select.epoll()
        self._epoll.register(self._plane.fd, select.EPOLLIN)
        self._ways: list[Way] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plane, name)

    def __len__(self) -> int:
        return len(self._plane)

    @property
    def fd(self) -> int:
        return self._epoll.fileno()

    def add(self, fd: int, owner: object, **options: Any) -> Socket:
        ours = socket.socket(fileno=fd)
        self._epoll.register(fd, select.EPOLLIN)
        self._ways.append(Way(self._plane, ours, lambda wake: self._plane.carry(owner, wake, **options)))
        return self._ways[-1]._handle

    def poll(self, now_ms: int, **options: Any) -> list[tuple[Any, int, Any]]:
        self._step()
        return self._plane.poll(now_ms, **options)

    def flush(self) -> bool:
        more = self._plane.flush()
        return self._step() or more

    def tick(self, now_ms: int, **options: Any) -> bool:
        due = self._plane.tick(now_ms, **options)
        self._step()
        return due

    def close(self) -> None:
        self._plane.close()
        self._step()
        with contextlib.suppress(ValueError):
            self._epoll.close()

    def _step(self) -> bool:
        moved = False
        for way in list(self._ways):
            moved |= way.step()
            if way.ended:
                way.close()
                self._ways.remove(way)
        return moved
