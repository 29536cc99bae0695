"""How much memory the bodies of all HTTP connections take together: of requests that come in, of answers that go out.

    a body   |== free ==|####### room #######|      held = all the #### together, at most ``most``

A body is bounded by itself; a crowd of them is bounded here."""

from __future__ import annotations

from engine.errors import LimitExceeded
from engine.limits import ANSWERS_BYTES, BODIES_BYTES, BODY_FREE_BYTES


class Bodies:
    """The room for large bodies, which all connections share: who has come with a request may not be known yet.

    What a body has up to ``free`` bytes needs no room: so those that are slow with large ones keep nobody else out.
    """

    def __init__(self, most: int = BODIES_BYTES, free: int = BODY_FREE_BYTES, what: str = "of other requests") -> None:
        self.held = 0
        self._most, self._free, self._what = most, free, what

    def grow(self, size: int, more: int) -> None:
        """A body of so many bytes gets more. Raises: LimitExceeded 50004."""
        if self._room_for(size + more) - self._room_for(size) > self._most - self.held:
            told = f"the server holds as much {self._what} as it may, {self._most} bytes; try again"
            raise LimitExceeded(told, code=50004, status=503, retry_after_ms=1000)
        self.hold(size, more)

    def hold(self, size: int, more: int) -> None:
        """The same for one that has to have it, whoever finds no room then."""
        self.held += self._room_for(size + more) - self._room_for(size)

    def release(self, size: int) -> None:
        """A body of so many bytes is not held any more."""
        self.held -= self._room_for(size)

    def _room_for(self, size: int) -> int:
        return max(0, size - self._free)


def room_for_answers(most: int = ANSWERS_BYTES, free: int = BODY_FREE_BYTES) -> Bodies:
    """One of its own: readers that are slow with large answers keep no large request out."""
    return Bodies(most, free, "of answers that others have not taken yet")
