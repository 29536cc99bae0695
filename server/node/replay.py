"""Catching up, which may have to wait for the journal. Where it begins: server/node/beginnings.py.

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
from server.node.beginnings import Beginnings, failure
from server.node.readers import Readers
from server.realtime.attachment import Attachment, State, shapers
from server.realtime.protocol import ClientProtocol

LOGGER = logging.getLogger("unbroken.replay")

TURN_SECONDS = 1.0  # until one whose rate is used up looks again: others may share it
RETRY_SECONDS = 1.0  # until a journal that can't be read just now is tried again


class Replay:
    """Serves those who are not at the head."""

    def __init__(
        self,
        nursery: trio.Nursery,
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
        self._nursery = nursery
        self._now_ms = now_ms
        self._end_of_turn = end_of_turn
        self.beginnings = Beginnings(older_than, kick)
        self._reading = Readers(limits.REPLAY_THREADS, kick)

    # catching up

    def catch_up(self, client: ClientProtocol, attachment: Attachment) -> None:
        """Read on for those of the client that are behind, unless that is under way."""
        if not client.catching_up:
            client.catching_up = True
            self._next(client)

    def _next(self, client: ClientProtocol) -> None:
        """Hand one more batch to the transport: for the first that is behind, then it stands in the queue again."""
        while client.behind:
            attachment = client.behind.popleft()
            if attachment.state is not State.BEHIND:
                continue
            channel = attachment.channel
            waits_ms = [shaper.wait_ms(self._now_ms()) for shaper in shapers(client.transport, channel)]
            if any(waits_ms):
                client.behind.appendleft(attachment)
                self._nursery.start_soon(self._next_later, client, min(max(waits_ms) / 1000, TURN_SECONDS))
                return
            if channel.in_ring(attachment.cursor):
                client.deliver(attachment, attachment.cursor)
                self._when_drained(client)
            elif channel.policy.durability == "memory":
                client.discontinued(attachment, Discontinuity(channel.name, attachment.cursor, channel.ring.evicted))
                self._when_drained(client)
            else:
                self._play(client, attachment)
            return
        client.catching_up = False

    def _when_drained(self, client: ClientProtocol) -> None:
        """Go on once the transport has taken everything: so one client never holds more than a batch."""
        if client.open:
            client.drained = partial(self._next, client)
            client.transport.notify_drained()
        else:
            self._next(client)

    def _play(self, client: ClientProtocol, attachment: Attachment) -> None:
        channel, cursor = attachment.channel, attachment.cursor
        encoder = channel.stream(client.wire, attachment.name.full).encoder
        skip_origin = 0 if client.echo and attachment.echo else client.origin
        budget = limits.SHAPED_BYTES if shapers(client.transport, channel) else limits.REPLAY_BYTES
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

        self._reading.start(read, partial(self._played, client, attachment, cursor))

    def _played(
        self,
        client: ClientProtocol,
        attachment: Attachment,
        cursor: int,
        found: tuple[Playback, bool] | None,
        error: BaseException | None,
    ) -> None:
        """The batch is there, or the reason why not."""
        if attachment.state is not State.BEHIND or attachment.cursor != cursor:
            self._next(client)  # it has been placed elsewhere while we read
            return
        channel = attachment.channel
        if isinstance(error, JournalUnavailable):
            self._nursery.start_soon(self._play_later, client, attachment)
            return
        if isinstance(error, JournalCorrupted):
            LOGGER.error("replay of %r stopped: %s", channel.name, error)
            client.discontinued(attachment, Discontinuity(channel.name, cursor, channel.head))
        elif found is None:
            LOGGER.error("replay of %r failed", channel.name, exc_info=error)
            client.disconnect(failure(error))
        else:
            played, nothing = found
            if nothing:
                client.deliver(attachment, max(cursor, channel.ring.evicted))  # it let go of ephemeral ones
            elif not played.entries:
                client.discontinued(attachment, Discontinuity(channel.name, cursor, channel.ring.evicted))
            elif played.previous > cursor:
                client.discontinued(attachment, Discontinuity(channel.name, cursor, played.previous))
            else:
                frames = played.frames()
                client.transport.send_frames(frames)
                for shaper in shapers(client.transport, channel):
                    shaper.take_now(played.messages, len(frames))
                client.deliver(attachment, played.cursor)
        self._when_drained(client)

    async def _play_later(self, client: ClientProtocol, attachment: Attachment) -> None:
        """The journal is being reopened; who waits here costs nothing."""
        await trio.sleep(RETRY_SECONDS)
        if client.behind is not None and attachment.state is State.BEHIND:
            client.behind.appendleft(attachment)
        self._next(client)
        self._end_of_turn()

    async def _next_later(self, client: ClientProtocol, seconds: float) -> None:
        """Its turn comes then; or that of others with the same key or app, and it waits for the next."""
        await trio.sleep(seconds)
        self._next(client)
        self._end_of_turn()

    def take(self) -> None:
        """Go on where the journal has answered meanwhile."""
        self._reading.take()
        self.beginnings.turn()

    async def run(self) -> None:
        """Until cancelled; then what has begun to be read is finished first."""
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):  # no longer than a batch takes
                await trio.to_thread.run_sync(self._reading.close)
                await trio.to_thread.run_sync(self.beginnings.close)
