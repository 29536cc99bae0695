"""The one writing task: batches from the sequencer to the journal, outcomes back.

    pending -> take -> journal.append (a worker thread; synced) -> commit -> answers, deliveries
                 ^                                                   |
                 +---------------- the next batch has gathered ------+

A failed append leaves it unknown what is on the disk. So nothing goes on until the journal has been reopened and asked:
the batch is committed if it is there after all, and undone if it is not. While the journal can't be reopened every
publish is refused at once, readers of the ring go on, and the server says so in its health."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from engine.errors import JournalUnavailable, PubSubError
from engine.journal.port import Journal
from engine.sequencer import Batch, Sequencer
from ext.ring import Stream

LOGGER = logging.getLogger("unbroken.committer")

RETRY_SECONDS = 1.0  # between attempts to reopen a journal; a full disk rarely empties faster


class Committer:
    """Moves what is staged to where it is safe."""

    def __init__(
        self,
        journal: Journal,
        sequencer: Sequencer,
        on_commit: Callable[[list[Stream]], None],
        limiter: trio.CapacityLimiter,
    ) -> None:
        self.failure: PubSubError | None = None  # why nothing can be stored just now
        self._doubtful: Batch | None = None  # refused, but perhaps on the disk: to be erased before anything is written
        self.batches = 0
        self.failures = 0
        self._journal = journal
        self._sequencer = sequencer
        self._on_commit = on_commit
        self._limiter = limiter
        self._work = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    def poke(self) -> None:
        """Something is pending."""
        self._work.set()

    async def settled(self) -> None:
        """Wait until nothing is pending or under way; at drain."""
        while len(self._sequencer) or not self._idle.is_set():
            self._work.set()
            await self._idle.wait()
            await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Until cancelled. An append that has begun is finished first: its outcome is told before the task ends."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            self._idle = trio.Event()
            try:
                while (batch := self._sequencer.take()) is not None:
                    with trio.CancelScope(shield=True):  # bounded: an append ends, or fails, by itself
                        await self._write(batch)
            finally:
                self._idle.set()

    async def _write(self, batch: Batch) -> None:
        if batch.blocks:
            if self.failure is not None:
                self._undo(batch, self.failure)
                return
            try:
                await trio.to_thread.run_sync(
                    lambda: self._journal.append(batch.blocks, synced=batch.synced), limiter=self._limiter
                )
            except JournalUnavailable as error:
                if not await self._persisted_after_all(batch, error):
                    self._undo(batch, error)
                    return
        self.batches += 1
        self._on_commit(self._sequencer.commit(batch))

    def _undo(self, batch: Batch, error: PubSubError) -> None:
        self._sequencer.undo(batch, error)
        self._on_commit([])

    async def _persisted_after_all(self, batch: Batch, error: JournalUnavailable) -> bool:
        self.failures += 1
        LOGGER.error("append failed, %d channels concerned: %s", len(batch.blocks), error)
        doubtful = batch.blocks[0]
        try:
            await trio.to_thread.run_sync(self._journal.recover, limiter=self._limiter)
            return await trio.to_thread.run_sync(
                self._journal.holds, doubtful.channel, doubtful.entries[0][0], limiter=self._limiter
            )
        except PubSubError as still:
            LOGGER.error("the journal can't be reopened, publishes are refused until it can: %s", still)
            self.failure = still
            self._doubtful = batch
            return False

    async def recover(self) -> None:
        """Reopen a journal that has failed, as soon as it can be done. Run beside ``run``, until cancelled."""
        while True:
            await trio.sleep(RETRY_SECONDS)
            if self.failure is None:
                continue
            try:
                await trio.to_thread.run_sync(self._journal.recover, limiter=self._limiter)
                assert self._doubtful is not None  # it is set with the failure
                for block in self._doubtful.blocks:  # refused: what came to the disk all the same must not be seen
                    await trio.to_thread.run_sync(
                        self._journal.erase, block.channel, [entry[0] for entry in block.entries], limiter=self._limiter
                    )
            except PubSubError as still:
                self.failure = still
            else:
                LOGGER.warning("the journal is open again; publishes are accepted")
                self.failure = self._doubtful = None
