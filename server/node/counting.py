"""The statistics of all apps. Operations that use the journal take turns; counting never waits."""

from __future__ import annotations

from functools import partial

import trio

from engine.statistics import Entries, Interval, Statistics
from server.node.now import Now
from server.node.readers import alone


class Counting:
    """The statistics of one server."""

    def __init__(self, statistics: Statistics, now: Now) -> None:
        self._statistics = statistics
        self._now = now
        self._turn = trio.Lock()

    def look(self) -> None:
        """Add the counts since the last call to their minute."""
        self._statistics.look(self._now.wall_ms())

    def count(self, app_id: str, name: str, amount: int = 1) -> None:
        self._statistics.count(app_id, name, self._now.wall_ms(), amount)

    async def page(
        self, app_id: str, unit: str, first_ms: int, last_ms: int, *, limit: int, backwards: bool
    ) -> list[Interval]:
        async with self._turn:
            self.look()
            page = partial(self._statistics.page, limit=limit, backwards=backwards)
            return await trio.to_thread.run_sync(alone, partial(page, app_id, unit, first_ms, last_ms))

    async def put(self, app_id: str, minutes: list[tuple[int, Entries]]) -> None:
        """Add fixtures of a test suite."""
        async with self._turn:
            await trio.to_thread.run_sync(self._statistics.put, app_id, minutes, self._now.cautious_ms())

    async def forget(self, app_id: str) -> None:
        async with self._turn:
            await trio.to_thread.run_sync(self._statistics.forget, app_id)

    async def keep(self) -> None:
        """Write new counts to the journal. Raises: PubSubError."""
        async with self._turn:
            self._statistics.take()
            await trio.to_thread.run_sync(self._statistics.keep, self._now.cautious_ms())

    def keep_all(self) -> None:
        """Write everything at the end, when nothing else runs. Raises: JournalUnavailable."""
        self.look()
        self._statistics.take()
        self._statistics.keep(self._now.cautious_ms())
