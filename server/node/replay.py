"""Reading on behind the head, which may have to wait for the journal. Where it begins: server/node/beginnings.py.

    catch_up, one batch at a time for each client that is behind:

        in the ring? ------yes--> entries ---\
             no                               frames -> transport -> drained? -> again, until a stream holds the rest
        journal.feed (thread) ---------------/
             its first entry does not follow the cursor: Discontinuity, and the client is told

What the journal has is not always visible yet (durable comes first), so nothing after ``channel.head`` goes out."""

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

TURN_SECONDS = 1.0  # until one whose rate is used up looks again: others may share it
RETRY_SECONDS = 1.0  # until a journal that can't be read just now is tried again


class Replay:
    """Serves those who are not at the head: what attaching asks for (server.realtime.attach.Reading)."""

    def __init__(
        self,
        now_ms: Callable[[], int],
        end_of_turn: Callable[[], object],
        kick: Callable[[], None],
        older_than: Callable[[Partition, int], int],
    ):
        """
        Args:
            kick: may be called in any thread: it has ``take`` called soon.
            older_than: the milliseconds of a partition's serials below which everything is older than so many ms.
        """
        self._nursery: trio.Nursery  # while it runs
        self._now_ms = now_ms
        self._end_of_turn = end_of_turn
        self._beginnings = Beginnings(older_than, kick)
        self._reading = Readers(limits.REPLAY_THREADS, kick)

    # where it begins

    def locate(self, session: Session, attachment: Attachment, cursor: int, found: Callable[[bool], None]) -> None:
        self._beginnings.locate(session, attachment, cursor, found)

    def rewound(self, session: Session, attachment: Attachment, rewind: Rewind, found: Found) -> None:
        self._beginnings.rewound(session, attachment, rewind, found)

    def hurry(self, attachment: Attachment) -> None:
        self._beginnings.hurry(attachment)

    # catching up

    def catch_up(self, attaching: Attaching) -> None:
        """Hand one more batch to the transport: for the first that is behind, then it stands in the queue again."""
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
        """Go on once the transport has taken everything: so one client never holds more than a batch."""
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
        until = channel.head  # what is beyond it, no reader of the stream has seen either

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
        """The batch is there, or the reason why not."""
        if attachment.state is not State.BEHIND or attachment.cursor != cursor:
            self.catch_up(attaching)  # it has been placed elsewhere while we read
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
                attaching.deliver(attachment, max(cursor, channel.ring.evicted))  # it let go of ephemeral ones
            elif not played.entries:
                attaching.discontinued(attachment, Discontinuity(channel.name, cursor, channel.ring.evicted))
            elif played.previous > cursor:
                attaching.discontinued(attachment, Discontinuity(channel.name, cursor, played.previous))
            else:
                shaping.hand_over(attaching.session.transport, channel, played.frames(), played.messages)
                attaching.deliver(attachment, played.cursor)
        self._when_drained(attaching)

    async def _play_later(self, attaching: Attaching, attachment: Attachment) -> None:
        """The journal is being reopened; who waits here costs nothing."""
        await trio.sleep(RETRY_SECONDS)
        if attaching.behind is not None and attachment.state is State.BEHIND:
            attaching.behind.appendleft(attachment)
        self.catch_up(attaching)
        self._end_of_turn()

    async def _next_later(self, attaching: Attaching, seconds: float) -> None:
        """Its turn comes then; or that of others with the same key or app, and it waits for the next."""
        await trio.sleep(seconds)
        self.catch_up(attaching)
        self._end_of_turn()

    def take(self) -> None:
        """Go on where the journal has answered meanwhile."""
        self._reading.take()
        self._beginnings.turn()

    async def run(self) -> None:
        """Until cancelled; then what has begun to be read is finished first."""
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):  # no longer than a batch takes
                await trio.to_thread.run_sync(self._reading.close)
                await trio.to_thread.run_sync(self._beginnings.close)
