"""Watches for journal reads that fail or hang, so that no request waits for ever.

    failed    retried until it works: a server taken out of rotation notices by itself that it is healthy again
    damaged   reported for a while: it lasts as long as the data is kept, and concerns one channel
    hung      after HUNG_MS, requests waiting in ``answer`` fail, and so do new ones, until reads complete again

A subscriber that catches up simply waits: its cursor is safe, and it continues as soon as the disk does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from engine.errors import JournalUnavailable
from engine.journal.failing import FailedRead, Failing
from server.node.readers import alone

DAMAGE_TOLD_MS = 60_000  # since a client last hit it; monitors ask every few seconds
HUNG_MS = 15_000  # one read takes milliseconds; on a busy disk, a few hundred

Answer = TypeVar("Answer")


class ReadWatch:
    """Call ``look`` once a second, with the steady time."""

    def __init__(self, failing: Failing) -> None:
        self._failing = failing
        self._met: tuple[FailedRead, int] | None = None  # the newest failure, and when it became the newest
        self._oldest: tuple[object, int] | None = None  # the oldest read under way, and when it became the oldest
        self._waiting: set[trio.CancelScope] = set()
        self.hung = False

    async def look(self, steady_ms: int) -> None:
        self._look_for_hung(steady_ms)
        failed = self._failing.newest
        if failed is None:
            self._met = None
        elif failed.again is not None:
            if not self.hung:  # otherwise the retry would hang, too
                with trio.move_on_after(HUNG_MS / 1000):
                    await trio.to_thread.run_sync(alone, self._failing.try_again, abandon_on_cancel=True)
        elif self._met is None or self._met[0] is not failed:
            self._met = failed, steady_ms
        elif steady_ms - self._met[1] >= DAMAGE_TOLD_MS:
            self._failing.end(failed)

    @property
    def reason(self) -> str | None:
        """Why stored messages cannot be read at the moment, for any client; None when reads work."""
        if self.hung:
            return "the disk does not answer"
        failed = self._failing.newest
        return failed.reason if failed is not None else None

    async def answer(self, work: Callable[[], Answer], limiter: trio.CapacityLimiter) -> Answer:
        """The result of a read, made in a thread. Raises: JournalUnavailable, if the disk does not answer; and as
        ``work``."""
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
