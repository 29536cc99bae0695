"""A read of the journal that has failed, until it works again: so that who watches the server sees it, too, and not
only the client that has asked.

    unavailable   the disk, a descriptor: the same read is tried again from time to time, and its success is the end
    damaged       what is stored of one channel stays as it is: it counts until nobody has met it for a while

It is the newest one that is kept. Reads fail in any thread; each step here is one assignment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engine.errors import JournalCorrupted, JournalUnavailable

DAMAGED = "what is stored of a channel is damaged"


@dataclass(frozen=True, slots=True, eq=False)
class FailedRead:
    """``reason`` names no channel: it is told to anybody. ``again``: the same once more; None: it is damaged."""

    reason: str
    again: Callable[[], object] | None


class Failing:
    """See above."""

    def __init__(self) -> None:
        self.newest: FailedRead | None = None

    @contextmanager
    def watched(self, again: Callable[[], object]) -> Iterator[None]:
        """Around a read, which ``again`` would do once more, or one that meets the same."""
        try:
            yield
        except JournalCorrupted:
            self.newest = FailedRead(DAMAGED, None)
            raise
        except JournalUnavailable as error:
            self.newest = FailedRead(str(error.__cause__ or error), again)
            raise

    def try_again(self) -> None:
        """If the newest can be tried, and works now, it is over."""
        failed = self.newest
        if failed is None or failed.again is None:
            return
        try:
            failed.again()
        except JournalUnavailable:
            return
        except JournalCorrupted:
            pass  # it can be read, and is damaged: that counts once more when somebody asks for it
        self.end(failed)

    def end(self, failed: FailedRead) -> None:
        """It does not count any more; unless another has failed meanwhile."""
        if self.newest is failed:
            self.newest = None
