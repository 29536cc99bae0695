"""Moves batches to the journal, and handles their outcomes. Nothing else does.

    pending -> take -> append (synced in the background) -> commit -> answers, deliveries
                 ^                                             |
                 +----------- the next batch has gathered -----+

``turn`` does all work that needs no waiting. It runs at the end of every turn of work, and an eventfd triggers a turn
when a sync has ended. So no task is needed while the journal works.

After a failed append, the state of the disk is unknown. So the batch is in doubt until the journal has been reopened
and asked: it is committed if the journal has it, and undone if not. An earlier refusal could be false: the server might
die, and the publish might turn out to be stored.

    under way --failed--> in doubt --asked--> committed, or undone
                             |  every DOUBT_SECONDS: waiting publishers get "outcome unknown", and wait no longer
                             |  the same ids again: they wait for the same outcome
                             +-- asked after DOUBT_KEPT_SECONDS: taken back in any case

While the journal cannot be reopened, new publishes are refused at once, because they were never written. Readers of the
ring are unaffected, and the server's health reports it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable

import trio

from engine import limits
from engine.errors import JournalUnavailable, OutcomeUnknown, PubSubError
from engine.journal.port import NONE_REFUSED, Refused
from engine.partition import Partition
from engine.sequencer import Batch
from ext.log.stream import Stream
from server.logs import facts
from server.node.appender import Appender

LOGGER = logging.getLogger("unbroken.committer")

RETRY_SECONDS = 1.0  # between attempts to reopen a journal; a full disk rarely empties faster


class Committer:
    """Stores the staged entries of a partition. Entries that no journal keeps are revealed in the same turn."""

    def __init__(
        self,
        partition: Partition,
        on_commit: Callable[[list[Stream]], None],
        wake_fd: int,
        *,
        doubt_kept_seconds: float = limits.DOUBT_KEPT_SECONDS,
    ) -> None:
        """
        Args:
            on_commit: called with the streams that have grown. Answers may be due, too.
            wake_fd: an eventfd; when it is written, call ``turn`` soon.
            doubt_kept_seconds: entries in doubt for longer are not stored.
        """
        self.failure: PubSubError | None = None  # why nothing can be stored at the moment
        self.batches = 0
        self.failures = 0
        self._journal = partition.journal
        self._sequencer = partition.sequencer
        self._on_commit = on_commit
        self._appender = Appender(partition.journal, wake_fd)
        self._wake_fd = wake_fd
        self._under_way: Batch | None = None
        self._failed: JournalUnavailable | None = None  # of the batch under way, until its outcome is known
        self._failing = trio.Event()
        self._doubt_kept_seconds = doubt_kept_seconds
        self._stored_until: float | None = None  # from then on, entries in doubt are taken back
        self._taking_back = False  # some may be gone already, so all must go
        self._idle: trio.Event | None = None  # set while a caller waits for idleness
        self._closed = False

    @property
    def has_work(self) -> bool:
        """``turn`` has something to do, or to wait for."""
        return self._under_way is not None or len(self._sequencer) > 0

    @property
    def busy(self) -> bool:
        """A batch is under way: there will be more to do."""
        return self._under_way is not None and self.failure is None

    @property
    def in_doubt(self) -> int:
        """The number of entries with an unknown outcome."""
        if self.failure is None or self._under_way is None:
            return 0
        return sum(len(entries) for _, entries in self._under_way.groups)

    def turn(self) -> bool:
        """Process a finished append, or hand over the pending entries.

        True: there are entries to hand over, but the publishers just answered should run first. Their next messages can
        join the same batch, and a sync costs the same for many as for few. Then call it again.
        """
        while True:
            if self._under_way is not None:
                if self._failed is not None:
                    self._pass_by()
                    if self.failure is not None:
                        self._tell_idle()
                    return False
                if not self._appender.done:
                    return False
                try:
                    refused = self._appender.take()
                except JournalUnavailable as error:
                    self._failed = error.with_traceback(
                        None
                    )  # the traceback would keep this frame, and with it us, for a while
                    self._failing.set()
                    return False
                for channel, reason in refused.items():
                    LOGGER.error("a publish on %r cannot be stored: %s", channel, reason)
                batch, self._under_way = self._under_way, None
                self._commit(batch, refused)
                if len(self._sequencer) and not self._closed:
                    return True
            if self.failure is not None:
                self._pass_by()
            following = None if self._closed else self._sequencer.take()
            if following is None:
                self._tell_idle()
                return False
            if not following.blocks:
                self._commit(following)
            else:
                self._under_way = following
                if self._appender.start(following.blocks, synced=following.synced):
                    return False

    async def settled(self) -> None:
        """Wait until nothing is pending or under way, except entries in doubt; used at drain."""
        while len(self._sequencer) or (self._under_way is not None and self.failure is None):
            self._idle = trio.Event()
            if not self.turn():
                await self._idle.wait()

    async def run(self) -> None:
        """Handle failed appends, until cancelled. Then finish the append under way, and report its outcome."""
        try:
            while True:
                await self._failing.wait()
                self._failing = trio.Event()
                await self._settle_failed()
        finally:
            with trio.CancelScope(shield=True):  # bounded: reopening ends or fails by itself
                self._closed = True
                await trio.to_thread.run_sync(self._appender.close)
                self.turn()
                if self._failed is not None:
                    self._begin_doubt()
                    await self._settle()
                    self.leave_open()

    def leave_open(self) -> None:
        """Tell publishers that wait for entries in doubt that the outcome is unknown: they may send them again."""
        if self._under_way is not None and self._failed is not None:
            unknown = OutcomeUnknown(self._failed.reason)
            if self._sequencer.leave_open(self._under_way.groups, unknown):
                self._on_commit([])

    def _commit(self, batch: Batch, refused: Refused = NONE_REFUSED) -> None:
        self.batches += 1
        self._on_commit(self._sequencer.commit(batch, refused))

    def _tell_idle(self) -> None:
        if self._idle is not None:
            self._idle.set()

    def _pass_by(self) -> None:
        """Refuse pending entries while nothing can be written."""
        if self.failure is not None and len(self._sequencer):
            self._on_commit(self._sequencer.pass_by(self.failure))

    async def _settle_failed(self) -> None:
        """Retry until the journal accepts appends again. If cancelled, some entries may still be in doubt."""
        assert self._under_way is not None
        self.failures += 1
        LOGGER.error("append failed for %d channels: %s", len(self._under_way.blocks), self._failed)
        self._begin_doubt()
        told = trio.current_time()
        while not await self._settle():
            await trio.sleep(RETRY_SECONDS)
            if trio.current_time() - told >= limits.DOUBT_SECONDS:
                told = trio.current_time()
                self.leave_open()
                os.eventfd_write(self._wake_fd, 1)

    def _begin_doubt(self) -> None:
        if self._stored_until is None:
            self._stored_until = trio.current_time() + self._doubt_kept_seconds

    async def _settle(self) -> bool:
        """Reopen the journal, and commit or undo the batch in doubt accordingly; False: the journal is unavailable."""
        try:
            with trio.CancelScope(shield=True):
                held = await self._ask()
        except PubSubError as still:
            if self.failure is None:
                LOGGER.error(
                    "the journal cannot be reopened, publishes are refused until it is: %s",
                    still,
                    extra=facts("journal_down"),
                )
            self.failure = self._sequencer.refusing = still
            if self._failed is not None and self._failed.unwritten:
                self._end_doubt(set())
            os.eventfd_write(self._wake_fd, 1)
            return False
        if self.failure is not None:
            LOGGER.warning("the journal is open again; publishes are accepted", extra=facts("journal_up"))
            self.failure = self._sequencer.refusing = None
        self._end_doubt(held)
        os.eventfd_write(self._wake_fd, 1)
        return True

    async def _ask(self) -> set[str]:
        """The channels whose block the reopened journal has. Raises: PubSubError, when that cannot be determined."""
        await trio.to_thread.run_sync(self._journal.recover)
        if self._under_way is None:
            return set()
        assert self._stored_until is not None
        blocks = self._under_way.blocks
        if trio.current_time() > self._stored_until:
            self._taking_back = True
        if self._taking_back:
            for block in blocks:
                await trio.to_thread.run_sync(self._journal.erase, block.channel, [entry[0] for entry in block.entries])
            return set()

        def held() -> set[str]:
            return {block.channel for block in blocks if self._journal.holds(block.channel, block.entries[0][0])}

        return await trio.to_thread.run_sync(held)

    def _end_doubt(self, held: set[str]) -> None:
        """The blocks of these channels are stored; the others of the batch never will be."""
        batch, error = self._under_way, self._failed
        self._under_way = self._failed = self._stored_until = None
        self._taking_back = False
        if batch is None:
            return
        assert error is not None
        if held:
            self._commit(batch, {block.channel: error for block in batch.blocks if block.channel not in held})
        else:
            self._sequencer.undo(batch, error)
            self._on_commit([])


def failure_of(committers: Iterable[Committer]) -> PubSubError | None:
    """Why nothing can be stored at the moment; None when storing works."""
    return next((committer.failure for committer in committers if committer.failure is not None), None)
