"""Sees to reads of the journal that fail or do not end, so that nobody waits for them for ever.

    failed    tried again, until it works: a server that was taken out of rotation is found well again by itself
    damaged   told for a while: it stays so for as long as it is kept, and is one channel's
    hung      after HUNG_MS whoever waits by ``answer`` is told, as is whoever asks after that, until reads end again

A subscriber that catches up just waits: its cursor is safe, and it goes on as soon as the disk does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from engine.errors import JournalUnavailable
from engine.journal.failing import FailedRead, Failing
from server.node.readers import alone

DAMAGE_TOLD_MS = 60_000  # since a client last met it; a monitor asks every few seconds
HUNG_MS = 15_000  # one read takes milliseconds; on a busy disk, some hundred

Answer = TypeVar("Answer")


class ReadWatch:
    """``look`` once a second, at a steady time."""

    def __init__(self, failing: Failing) -> None:
        self._failing = failing
        self._met: tuple[FailedRead, int] | None = None  # what was the newest, and since when it was
        self._oldest: tuple[object, int] | None = None  # the read that began first, and since when it was that one
        self._waiting: set[trio.CancelScope] = set()
        self.hung = False

    async def look(self, steady_ms: int) -> None:
        self._look_for_hung(steady_ms)
        failed = self._failing.newest
        if failed is None:
            self._met = None
        elif failed.again is not None:
            if not self.hung:  # it would hang, too
                with trio.move_on_after(HUNG_MS / 1000):
                    await trio.to_thread.run_sync(alone, self._failing.try_again, abandon_on_cancel=True)
        elif self._met is None or self._met[0] is not failed:
            self._met = failed, steady_ms
        elif steady_ms - self._met[1] >= DAMAGE_TOLD_MS:
            self._failing.end(failed)

    @property
    def reason(self) -> str | None:
        """Why stored messages can't be read just now, for anybody who asks; None: they can."""
        if self.hung:
            return "the disk does not answer"
        failed = self._failing.newest
        return failed.reason if failed is not None else None

    async def answer(self, work: Callable[[], Answer], limiter: trio.CapacityLimiter) -> Answer:
        """What a read gives, made in a thread. Raises: JournalUnavailable, if the disk does not answer; as ``work``."""
        if not self.hung:
            with trio.CancelScope() as scope:
                self._waiting.add(scope)
                try:
                    return await trio.to_thread.run_sync(alone, work, limiter=limiter, abandon_on_cancel=True)
                finally:
                    self._waiting.discard(scope)
        raise JournalUnavailable("the disk does not answer; try again")

    def _look_for_hung(self, steady_ms: int) -> None:
        oldest = self._failing.oldest
        if oldest is None:
            self._oldest = None
        elif self._oldest is None or self._oldest[0] is not oldest:
            self._oldest = oldest, steady_ms
        self.hung = self._oldest is not None and steady_ms - self._oldest[1] >= HUNG_MS
        if self.hung:
            for scope in self._waiting:
                scope.cancel()
