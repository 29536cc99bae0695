"""Upkeep: time-based work, independent of traffic.

each second    connections expire, refusals are summarised, statistics and heartbeats of the desk
sweep          idle channels are dropped, a few at a time; after many, memory is returned to the system
journal        expiry of entries past retention, creation of the next buckets; notes of being alive; statistics"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from engine import limits
from engine.auth.keys import Keyring
from engine.connection import Connections
from engine.errors import PubSubError
from engine.hub import Hub
from engine.journal.port import Journal
from server.http.bodies import Bodies
from server.http.refusals import Refusals
from server.node.committer import Committer, failure_of
from server.node.counting import Counting
from server.node.disk import DiskWatch
from server.node.heap import Falling, give_back
from server.node.now import Now
from server.node.readwatch import ReadWatch
from server.node.turn import Turn

LOGGER = logging.getLogger("unbroken")

ALIVE_SECONDS = 2.0  # between notes of being alive; after a crash, the resume window may be off by this much
KEEP_SECONDS = 10.0  # between writes of statistics: a crash may lose this much of them
MAINTAIN_SECONDS = 1.0  # between looks at the journal's buckets


class Upkeep:
    """The upkeep of one server; ``run`` in a nursery."""

    def __init__(
        self,
        hub: Hub,
        journal: Journal,
        committers: Sequence[Committer],
        connections: Connections,
        keyring: Keyring,
        counting: Counting,
        bodies: Bodies,
        refusals: Refusals,
        turn: Turn,
        now: Now,
        disk: DiskWatch,
        reads: ReadWatch,
        note_alive: Callable[[int], None],
    ) -> None:
        self._hub = hub
        self._journal = journal
        self._committers = committers
        self._connections = connections
        self._keyring = keyring
        self._counting = counting
        self._bodies = bodies
        self._refusals = refusals
        self._turn = turn
        self._now = now
        self._disk = disk
        self._reads = reads
        self._note_alive = note_alive
        self._shared_out = -1  # the version of the keys at the last update
        self._share_out()

    async def begin(self) -> None:
        """Run once, before the first client arrives."""
        await trio.to_thread.run_sync(self._maintain, self._now.steady_ms(), self._now.clock.noted())

    def start(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._keep_journal)
        nursery.start_soon(self._watch_reads)
        nursery.start_soon(self._sweep)

    def on_second(self) -> None:
        self._turn.begin()
        self._share_out()
        steady_ms = self._now.turn_ms()
        self._connections.expire(steady_ms)
        self._counting.look()
        self._refusals.tick(steady_ms)
        if self._turn.desk is not None:
            self._turn.desk.tick()
        self._turn.end()

    def _share_out(self) -> None:
        """Share the limits among apps as soon as there is more than one."""
        if self._keyring.version != self._shared_out:
            self._shared_out = self._keyring.version
            self._hub.common.shared = self._keyring.apps() > 1

    async def _sweep(self) -> None:
        dropped, falling = 0, Falling(limits.TRIM_BYTES)
        hub, steady_ms = self._hub, self._now.steady_ms
        while True:
            await trio.sleep(limits.SWEEP_SECONDS if hub.sweep_is_due(steady_ms()) else 1.0)
            now = hub.sweep(steady_ms(), limits.SWEEP_CHANNELS)
            dropped += now
            held = hub.budget.held + self._bodies.held  # everything with a budget
            if falling.by_enough(held) or (not now and dropped >= limits.TRIM_CHANNELS):
                dropped = 0
                await trio.to_thread.run_sync(give_back)

    async def _watch_reads(self) -> None:
        """In a task of its own: any other use of the journal may hang with it."""
        while True:
            await trio.sleep(1)
            await self._reads.look(self._now.steady_ms())

    async def _keep_journal(self) -> None:
        noted = kept = looked = 0
        while True:
            await trio.sleep(MAINTAIN_SECONDS)
            steady_ms = self._now.steady_ms()
            due = steady_ms - noted >= ALIVE_SECONDS * 1000
            try:
                if self._stores():
                    clocks = self._now.clock.noted() if due else b""
                    await trio.to_thread.run_sync(self._maintain, steady_ms, clocks)
                if due:
                    noted = steady_ms
                    await trio.to_thread.run_sync(self._note_alive, steady_ms)
                    if self._stores():
                        await trio.to_thread.run_sync(self._journal.raise_head, self._hub.kept.sequencer.revealed)
                if steady_ms - looked >= KEEP_SECONDS * 1000:
                    looked = steady_ms
                    await trio.to_thread.run_sync(self._disk.look)
                if steady_ms - kept >= KEEP_SECONDS * 1000 and self._stores():
                    kept = steady_ms
                    await self._counting.keep()
            except (PubSubError, OSError) as error:
                LOGGER.error("maintenance failed and will be retried: %s", error)

    def _stores(self) -> bool:
        return failure_of(self._committers) is None

    def _maintain(self, steady_ms: int, clocks: bytes) -> None:
        """Expire entries in all journals, and store the clocks' notes, if given; in a thread."""
        for partition in self._hub.partitions:
            partition.journal.maintain(steady_ms, clocks)

    def end(self) -> None:
        """Write all statistics and the highest serials, when nothing else runs. Raises: JournalUnavailable."""
        self._counting.keep_all()
        self._journal.raise_head(self._hub.kept.sequencer.revealed)
