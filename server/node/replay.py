"""Reads entries behind the head, which may require the journal. For start positions see server/node/beginnings.py.

    catch_up, one batch at a time for each client that is behind:

        in the ring? ------yes--> entries ---\
             no                               frames -> transport -> drained? -> again, until a stream holds the rest
        journal.feed (thread) ---------------/
             its first entry does not follow the cursor: Discontinuity, and the client is told

The journal may hold entries that are not visible yet (they are durable first), so nothing after ``channel.head`` is
sent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import trio

from engine import limits
from engine.errors import Discontinuity, JournalCorrupted, JournalUnavailable
from engine.partition import Partition
from ext.disk.playback import Playback
from server.node.beginnings import Beginnings, Found, failure
from server.node.readers import Readers
from server.realtime import shaping
from server.realtime.attach import Attaching
from server.realtime.attachment import Attachment, State
from server.realtime.params import Rewind
from server.realtime.session import Session

LOGGER = logging.getLogger("unbroken.replay")

TURN_SECONDS = 1.0  # between looks of a client whose rate is used up: others may share it
RETRY_SECONDS = 1.0  # between attempts to read an unavailable journal


class Replay:
    """Serves attachments behind the head; implements server.realtime.attach.Reading."""

    def __init__(
        self,
        now_ms: Callable[[], int],
        end_of_turn: Callable[[], object],
        kick: Callable[[], None],
        older_than: Callable[[Partition, int], int],
    ):
        """
        Args:
            kick: schedules a call of ``take`` soon; callable from any thread.
            older_than: the milliseconds of a partition's serials below which everything is older than the given age in
                ms.
        """
        self._nursery: trio.Nursery  # while it runs
        self._now_ms = now_ms
        self._end_of_turn = end_of_turn
        self._beginnings = Beginnings(older_than, kick)
        self._reading = Readers(limits.REPLAY_THREADS, kick)

    # start positions

    def locate(self, session: Session, attachment: Attachment, cursor: int, found: Callable[[bool], None]) -> None:
        self._beginnings.locate(session, attachment, cursor, found)

    def rewound(self, session: Session, attachment: Attachment, rewind: Rewind, found: Found) -> None:
        self._beginnings.rewound(session, attachment, rewind, found)

    def hurry(self, attachment: Attachment) -> None:
        self._beginnings.hurry(attachment)

    # catching up

    def catch_up(self, attaching: Attaching) -> None:
        """Hand one more batch to the transport, for the first attachment in the queue; then it goes to the end."""
        while attaching.behind:
            attachment = attaching.behind.popleft()
            if attachment.state is not State.BEHIND:
                continue
            channel = attachment.channel
            waits_ms = shaping.wait_ms(attaching.session.transport, channel, self._now_ms())
            if waits_ms:
                attaching.behind.appendleft(attachment)
                self._nursery.start_soon(self._next_later, attaching, min(waits_ms / 1000, TURN_SECONDS))
                return
            if channel.in_ring(attachment.cursor):
                attaching.deliver(attachment, attachment.cursor)
                self._when_drained(attaching)
            elif channel.policy.durability == "memory":
                attaching.discontinued(attachment, Discontinuity(channel.name, attachment.cursor, channel.ring.evicted))
                self._when_drained(attaching)
            else:
                self._play(attaching, attachment)
            return
        attaching.behind = None

    def _when_drained(self, attaching: Attaching) -> None:
        """Continue when the transport has taken everything: so one client never holds more than a batch."""
        if attaching.session.open:
            attaching.session.transport.notify_drained()
        else:
            self.catch_up(attaching)

    def _play(self, attaching: Attaching, attachment: Attachment) -> None:
        channel, cursor = attachment.channel, attachment.cursor
        encoder = channel.stream(attachment.variant(attaching.session.wire)).encoder
        skip_origin = attaching.skipped_by(attachment)
        budget = shaping.batch_bytes(attaching.session.transport, channel)
        omit = attachment.omitted_after(cursor)
        journal = channel.partition.journal
        until = channel.head  # readers of the stream have not seen anything beyond it either

        def read() -> tuple[Playback, bool]:
            played = Playback(
                encoder,  # type: ignore[arg-type]  # opaque to the ring
                cursor,
                until=until,
                budget=budget,
                skip_origin=skip_origin,
                omit=omit,
            )
            journal.feed(channel.key, played)
            nothing = not played.entries and journal.continuous(channel.key, channel.policy.retention, cursor)
            return played, nothing

        self._reading.start(read, partial(self._played, attaching, attachment, cursor))

    def _played(
        self,
        attaching: Attaching,
        attachment: Attachment,
        cursor: int,
        found: tuple[Playback, bool] | None,
        error: BaseException | None,
    ) -> None:
        """The batch has been read, or the read failed."""
        if attachment.state is not State.BEHIND or attachment.cursor != cursor:
            self.catch_up(attaching)  # it was placed elsewhere during the read
            return
        channel = attachment.channel
        if isinstance(error, JournalUnavailable):
            self._nursery.start_soon(self._play_later, attaching, attachment)
            return
        if isinstance(error, JournalCorrupted):
            LOGGER.error("replay of %r stopped: %s", channel.name, error)
            attaching.discontinued(attachment, Discontinuity(channel.name, cursor, channel.head))
        elif found is None:
            LOGGER.error("replay of %r failed", channel.name, exc_info=error)
            attaching.session.disconnect(failure(error))
        else:
            played, nothing = found
            if nothing:
                attaching.deliver(attachment, max(cursor, channel.ring.evicted))  # the ring dropped ephemeral entries
            elif not played.entries:
                attaching.discontinued(attachment, Discontinuity(channel.name, cursor, channel.ring.evicted))
            elif played.previous > cursor:
                attaching.discontinued(attachment, Discontinuity(channel.name, cursor, played.previous))
            else:
                shaping.hand_over(attaching.session.transport, channel, played.frames(), played.messages)
                attaching.deliver(attachment, played.cursor)
        self._when_drained(attaching)

    async def _play_later(self, attaching: Attaching, attachment: Attachment) -> None:
        """The journal is being reopened; waiting here costs nothing."""
        await trio.sleep(RETRY_SECONDS)
        if attaching.behind is not None and attachment.state is State.BEHIND:
            attaching.behind.appendleft(attachment)
        self.catch_up(attaching)
        self._end_of_turn()

    async def _next_later(self, attaching: Attaching, seconds: float) -> None:
        """Continue after ``seconds``; if others with the same key or app are first, it waits again."""
        await trio.sleep(seconds)
        self.catch_up(attaching)
        self._end_of_turn()

    def take(self) -> None:
        """Process the journal's answers."""
        self._reading.take()
        self._beginnings.turn()

    async def run(self) -> None:
        """Runs until cancelled; then reads under way are finished first."""
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):  # no longer than a batch takes
                await trio.to_thread.run_sync(self._reading.close)
                await trio.to_thread.run_sync(self._beginnings.close)
