"""The one place where batches go to the journal, and their outcomes come back.

    pending -> take -> append (synced behind the scenes) -> commit -> answers, deliveries
                 ^                                             |
                 +----------- the next batch has gathered -----+

``turn`` does what can be done without waiting; it is called at the end of every turn of work, and an eventfd sees to it
that there is one when a sync has ended. So nothing here is a task, as long as the journal does what it is asked.

A failed append leaves it unknown what is on the disk. So nothing goes on until the journal has been reopened and asked:
the batch is committed if it is there after all, and undone if it is not. While the journal can't be reopened every
publish is refused at once, readers of the ring go on, and the server says so in its health."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import trio

from engine.errors import JournalUnavailable, PubSubError
from engine.journal.port import Journal
from engine.sequencer import Batch, Sequencer
from ext.ring import Stream
from server.appender import Appender

LOGGER = logging.getLogger("unbroken.committer")

RETRY_SECONDS = 1.0  # between attempts to reopen a journal; a full disk rarely empties faster


class Committer:
    """Moves what is staged to where it is safe."""

    def __init__(
        self,
        journal: Journal,
        sequencer: Sequencer,
        on_commit: Callable[[list[Stream]], None],
        wake_fd: int,
    ) -> None:
        """
        Args:
            on_commit: told which streams have grown. Answers may be due, too.
            wake_fd: an eventfd; when it is written to, ``turn`` is to be called soon.
        """
        self.failure: PubSubError | None = None  # why nothing can be stored just now
        self._doubtful: Batch | None = None  # refused, but perhaps on the disk: to be erased before anything is written
        self.batches = 0
        self.failures = 0
        self._journal = journal
        self._sequencer = sequencer
        self._on_commit = on_commit
        self._appender = Appender(journal, wake_fd)
        self._wake_fd = wake_fd
        self._under_way: Batch | None = None
        self._failed: JournalUnavailable | None = None  # of the batch under way, until it is known what became of it
        self._failing = trio.Event()
        self._idle: trio.Event | None = None  # somebody waits for it
        self._closed = False

    @property
    def busy(self) -> bool:
        """A batch is under way: there will be more to do."""
        return self._under_way is not None

    def turn(self) -> bool:
        """Take in an outcome that has come, or hand over what is pending.

        True: there is something to hand over, but first let those go on who have just been answered. What they send
        next can be in the same batch, and a sync costs the same for many as for few. Then call it again.
        """
        while True:
            if self._under_way is not None:
                if self._failed is not None or not self._appender.done:
                    return False
                error = self._appender.take()
                if error is not None:
                    if not isinstance(error, JournalUnavailable):
                        raise error
                    self._failed = error
                    self._failing.set()
                    return False
                batch, self._under_way = self._under_way, None
                self._commit(batch)
                if len(self._sequencer) and not self._closed:
                    return True
            following = None if self._closed else self._sequencer.take()
            if following is None:
                if self._idle is not None:
                    self._idle.set()
                return False
            if not following.blocks:
                self._commit(following)
            elif self.failure is not None:
                self._undo(following, self.failure)
            else:
                self._under_way = following
                self._appender.start(following.blocks, synced=following.synced)

    async def settled(self) -> None:
        """Wait until nothing is pending or under way; at drain."""
        while self._under_way is not None or len(self._sequencer):
            self._idle = trio.Event()
            if not self.turn():
                await self._idle.wait()

    async def run(self) -> None:
        """Sees to appends that fail, until cancelled. One that has begun is finished first, and its outcome told."""
        try:
            while True:
                await self._failing.wait()
                self._failing = trio.Event()
                with trio.CancelScope(shield=True):  # bounded: reopening ends, or fails, by itself
                    await self._settle_failed()
                os.eventfd_write(self._wake_fd, 1)
        finally:
            with trio.CancelScope(shield=True):
                self._closed = True
                await trio.to_thread.run_sync(self._appender.close)
                self.turn()
                if self._failed is not None:
                    await self._settle_failed()

    def _commit(self, batch: Batch) -> None:
        self.batches += 1
        self._on_commit(self._sequencer.commit(batch))

    def _undo(self, batch: Batch, error: PubSubError) -> None:
        self._sequencer.undo(batch, error)
        self._on_commit([])

    async def _settle_failed(self) -> None:
        assert self._under_way is not None
        assert self._failed is not None
        batch, error = self._under_way, self._failed
        persisted = await self._persisted_after_all(batch, error)
        self._under_way = self._failed = None
        if persisted:
            self._commit(batch)
        else:
            self._undo(batch, error)

    async def _persisted_after_all(self, batch: Batch, error: JournalUnavailable) -> bool:
        self.failures += 1
        LOGGER.error("append failed, %d channels concerned: %s", len(batch.blocks), error)
        doubtful = batch.blocks[0]
        try:
            await trio.to_thread.run_sync(self._journal.recover)
            return await trio.to_thread.run_sync(self._journal.holds, doubtful.channel, doubtful.entries[0][0])
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
                await trio.to_thread.run_sync(self._journal.recover)
                assert self._doubtful is not None  # it is set with the failure
                for block in self._doubtful.blocks:  # refused: what came to the disk all the same must not be seen
                    await trio.to_thread.run_sync(
                        self._journal.erase, block.channel, [entry[0] for entry in block.entries]
                    )
            except PubSubError as still:
                self.failure = still
            else:
                LOGGER.warning("the journal is open again; publishes are accepted")
                self.failure = self._doubtful = None
