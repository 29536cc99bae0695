"""Bounds the memory of all HTTP bodies together: of requests being received, and of answers being sent.

    a body   |== free ==|####### held #######|      held = all the #### together, and other users of the same bound

Each body has its own bound; this one is for all of them. Requests share it (ext/net/room.pyx) with partly received
WebSocket messages, and with ext/net/posts.pyx."""

from __future__ import annotations

from engine.errors import LimitExceeded
from engine.limits import ANSWERS_BYTES, BODIES_BYTES
from ext.net.room import Room


class Bodies:
    """The memory bound for bodies, which all connections share: the client of a request may not be known yet.

    The first ``free`` bytes of a body do not count.
    """

    def __init__(self, most: int = BODIES_BYTES, free: int = 0, what: str = "of other requests") -> None:
        self.room = Room(most)
        self._free, self._what = free, what

    @property
    def held(self) -> int:
        return self.room.held

    def full(self) -> LimitExceeded:
        """The error for a client that finds no memory left: 50004."""
        told = f"the server holds {self.room.max_bytes} bytes {self._what}, the maximum; try again"
        return LimitExceeded(told, code=50004, status=503, retry_after_ms=1000)

    def grow(self, size: int, more: int) -> None:
        """A body of so many bytes gets more. Raises: LimitExceeded 50004."""
        held = self._room_for(size)
        if not self.room.grow(held, self._room_for(size + more) - held):
            raise self.full()

    def hold(self, size: int, more: int) -> None:
        """The same without a check, for a body that is needed in any case."""
        self.room.hold(self._room_for(size + more) - self._room_for(size))

    def release(self, size: int) -> None:
        """A body of so many bytes is no longer held."""
        self.room.release(self._room_for(size))

    def _room_for(self, size: int) -> int:
        return max(0, size - self._free)


def room_for_answers(most: int = ANSWERS_BYTES, free: int = 0) -> Bodies:
    """A separate bound for answers: slow readers of large answers do not block large requests."""
    return Bodies(most, free, "of answers that clients have not read yet")
