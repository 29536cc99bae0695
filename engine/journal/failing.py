"""Remembers a failed read of the journal until reads work again, so that monitoring sees it, not only the client.

    unavailable   the disk, a descriptor: the same read is retried from time to time, until it succeeds
    damaged       stored data of one channel stays damaged: it counts until no read has met it for a while
    hung          it neither fails nor ends: ``oldest`` is the read that began first; a caller compares two looks at it

Of failed ones, the newest is kept. Reads fail in any thread; each step here is one assignment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engine.errors import JournalCorrupted, JournalUnavailable

DAMAGED = "stored data of a channel is damaged"


@dataclass(frozen=True, slots=True, eq=False)
class FailedRead:
    """``reason`` names no channel, because it is public. ``again``: retries the read; None: the data is damaged."""

    reason: str
    again: Callable[[], object] | None


class Failing:
    """The newest failed read, see above."""

    def __init__(self) -> None:
        self.newest: FailedRead | None = None
        self._under_way: dict[object, None] = {}  # in the order in which they began

    @property
    def oldest(self) -> object | None:
        """A token for the oldest read under way."""
        while True:
            try:
                return next(iter(self._under_way), None)
            except RuntimeError:  # another thread has begun or ended one
                continue

    @contextmanager
    def watched(self, again: Callable[[], object]) -> Iterator[None]:
        """Wrap a read. ``again`` retries it, or does another read of the same data."""
        read = object()
        self._under_way[read] = None
        try:
            yield
        except JournalCorrupted:
            self.newest = FailedRead(DAMAGED, None)
            raise
        except JournalUnavailable as error:
            self.newest = FailedRead(str(error.__cause__ or error), again)
            raise
        finally:
            del self._under_way[read]

    def try_again(self) -> None:
        """Retry the newest failed read, if possible; if it works now, the failure is over."""
        failed = self.newest
        if failed is None or failed.again is None:
            return
        try:
            failed.again()
        except JournalUnavailable:
            return
        except JournalCorrupted:
            pass  # readable but damaged: it counts again at the next read
        self.end(failed)

    def end(self, failed: FailedRead) -> None:
        """End this failure, unless another one has followed."""
        if self.newest is failed:
            self.newest = None
