"""Sees to reads of the journal that have failed: tried again, until they work; and what is damaged, told for a while.

A server whose disk does not answer would be found well again as soon as nobody asks for anything, because it was taken
out of rotation for being ill: so what has failed is asked for again and again. What is damaged stays so for as long as
it is kept, and is one channel's: it is told while somebody meets it, and then the others count again."""

from __future__ import annotations

import trio

from engine.journal.failing import FailedRead, Failing
from server.node.readers import alone

DAMAGE_TOLD_MS = 60_000  # since somebody last met it; who watches asks every few seconds


class ReadWatch:
    """``look`` once a second, at a steady time."""

    def __init__(self, failing: Failing) -> None:
        self._failing = failing
        self._met: tuple[FailedRead, int] | None = None  # what was the newest, and since when it was

    async def look(self, steady_ms: int) -> None:
        failed = self._failing.newest
        if failed is None:
            self._met = None
        elif failed.again is not None:
            await trio.to_thread.run_sync(alone, self._failing.try_again)
        elif self._met is None or self._met[0] is not failed:
            self._met = failed, steady_ms
        elif steady_ms - self._met[1] >= DAMAGE_TOLD_MS:
            self._failing.end(failed)
