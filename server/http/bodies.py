"""How much memory the bodies of all HTTP connections take together: of requests that come in, of answers that go out.

    a body   |== free ==|####### room #######|      held = all the #### together, and what else is in the room

A body is bounded by itself; a crowd of them is bounded here. What comes in shares its room (ext/net/room.pyx) with the
half messages of WebSockets, and with what ext/net/posts.pyx holds."""

from __future__ import annotations

from engine.errors import LimitExceeded
from engine.limits import ANSWERS_BYTES, BODIES_BYTES
from ext.net.room import Room


class Bodies:
    """The room for bodies, which all connections share: who has come with a request may not be known yet.

    What a body has up to ``free`` bytes needs no room, if there is any.
    """

    def __init__(self, most: int = BODIES_BYTES, free: int = 0, what: str = "of other requests") -> None:
        self.room = Room(most)
        self._free, self._what = free, what

    @property
    def held(self) -> int:
        return self.room.held

    def full(self) -> LimitExceeded:
        """What is told to who finds no room: 50004."""
        told = f"the server holds {self.room.most} bytes {self._what}, the maximum; try again"
        return LimitExceeded(told, code=50004, status=503, retry_after_ms=1000)

    def grow(self, size: int, more: int) -> None:
        """A body of so many bytes gets more. Raises: LimitExceeded 50004."""
        held = self._room_for(size)
        if not self.room.grow(held, self._room_for(size + more) - held):
            raise self.full()

    def hold(self, size: int, more: int) -> None:
        """The same for one that has to have it, whoever finds no room then."""
        self.room.hold(self._room_for(size + more) - self._room_for(size))

    def release(self, size: int) -> None:
        """A body of so many bytes is not held any more."""
        self.room.release(self._room_for(size))

    def _room_for(self, size: int) -> int:
        return max(0, size - self._free)


def room_for_answers(most: int = ANSWERS_BYTES, free: int = 0) -> Bodies:
    """One of its own: readers that are slow with large answers keep no large request out."""
    return Bodies(most, free, "of answers that clients have not read yet")
