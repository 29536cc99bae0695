"""Reading that may have to wait for the journal: where a cursor or a rewind begins, and catching up from there.

    catch_up, one task for each client that is behind, one batch at a time:

        in the ring? ------yes--> entries ---\\
             no                               frames -> transport -> drained? -> again, until a stream holds the rest
        journal.read_after (thread) ---------/
             its first entry does not follow the cursor: Discontinuity, and the client is told

What the journal has is not always visible yet (durable comes first), so nothing after ``channel.head`` goes out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import trio

from engine import limits
from engine.channel import Channel
from engine.errors import Discontinuity, JournalCorrupted, JournalUnavailable, PubSubError
from engine.journal.port import Journal, Stored
from ext.playback import Playback
from ext.wire import record_messages
from server.actions import Flag
from server.attachment import Attachment, Rewind
from server.protocol import ClientProtocol

LOGGER = logging.getLogger("unbroken.replay")

RETRY_SECONDS = 1.0  # until a journal that can't be read just now is tried again


class Replay:
    """Serves those who are not at the head."""

    def __init__(
        self, journal: Journal, nursery: trio.Nursery, now_ms: Callable[[], int], end_of_turn: Callable[[], object]
    ):
        self._journal = journal
        self._nursery = nursery
        self._now_ms = now_ms
        self._end_of_turn = end_of_turn
        self._readers = trio.CapacityLimiter(limits.JOURNAL_READERS)

    # where to begin

    def locate(
        self, client: ClientProtocol, attachment: Attachment, cursor: int, found: Callable[[bool], None]
    ) -> None:
        """Is everything after ``cursor`` still held?"""
        self._nursery.start_soon(self._guarded, client, partial(self._locate, attachment, cursor, found))

    async def _locate(self, attachment: Attachment, cursor: int, found: Callable[[bool], None]) -> None:
        channel = attachment.channel
        held = channel.policy.durability != "memory" and await self._continuous(channel, cursor)
        found(held)
        self._end_of_turn()

    def rewound(
        self, client: ClientProtocol, attachment: Attachment, rewind: Rewind, found: Callable[[int, bool], None]
    ) -> None:
        """The cursor from which it begins. In the same step if the ring knows."""
        channel = attachment.channel
        floor, cut = self._floor(channel, rewind)
        if channel.in_ring(floor) or channel.policy.durability == "memory":
            most = rewind.messages if rewind.messages is not None else limits.RING_ENTRIES
            entries = channel.ring.read_before(channel.head + 1, limit=min(most, limits.RING_ENTRIES))
            # Entries are tuples of serial, series, record; the ring does not look into them.
            counted = [(entry[0], record_messages(entry[2])) for entry in entries]  # type: ignore[index]
            found(_begin(counted, floor, rewind, channel.head), cut)
            return
        self._nursery.start_soon(self._guarded, client, partial(self._rewound, channel, rewind, floor, cut, found))

    async def _rewound(
        self, channel: Channel, rewind: Rewind, floor: int, cut: bool, found: Callable[[int, bool], None]
    ) -> None:
        if rewind.messages is None:
            following = await self._read_after(channel, floor, limit=1)
            cursor = following[0].serial - 1 if following else channel.head
        else:
            gathered: list[tuple[int, int]] = []  # serials, and how many messages each entry has
            before, missing = channel.head + 1, rewind.messages
            while missing > 0:
                page = await trio.to_thread.run_sync(
                    partial(
                        self._journal.read_before,
                        channel.key,
                        before,
                        limit=min(missing, 1000),
                        budget=limits.REPLAY_BYTES,
                    ),
                    limiter=self._readers,
                )
                page = [stored for stored in page if stored.serial > floor]
                if not page:
                    break
                counted = [(stored.serial, record_messages(stored.record)) for stored in page]
                gathered += counted
                missing -= sum(count for _, count in counted)
                before = page[-1].serial
            cursor = _begin(gathered, floor, rewind, channel.head)
        found(min(cursor, channel.head), cut)
        self._end_of_turn()

    def _floor(self, channel: Channel, rewind: Rewind) -> tuple[int, bool]:
        """Nothing at or before this serial may be handed out; and whether that is less than was asked for."""
        now_ms = self._now_ms()
        wanted = channel.policy.retained_ms if rewind.window_ms is None else rewind.window_ms
        window = min(wanted, channel.policy.retained_ms)
        return max(0, ((now_ms - window) << 16) - 1), window < wanted

    # catching up

    def catch_up(self, client: ClientProtocol, attachment: Attachment) -> None:
        """Have the client's task read for it too; start one if it has none."""
        if not client.catching_up:
            client.catching_up = True
            self._nursery.start_soon(self._guarded, client, partial(self._catch_up, client))

    async def _catch_up(self, client: ClientProtocol) -> None:
        try:
            while client.behind:
                attachment = client.behind.popleft()
                if attachment.active and attachment.reader is None and attachment.modes & Flag.SUBSCRIBE:
                    await self._one_batch(client, attachment)
                    await self._drained(client)
        finally:
            client.catching_up = False

    async def _one_batch(self, client: ClientProtocol, attachment: Attachment) -> None:
        """Hand the next batch to the transport; then the attachment is live, or stands in the queue again."""
        channel, cursor = attachment.channel, attachment.cursor
        if not channel.in_ring(cursor):
            try:
                if channel.policy.durability == "memory":
                    raise Discontinuity(channel.name, cursor, channel.ring.evicted)
                played = await self._play_after(client, attachment)
                if (
                    not (attachment.active and client.open and attachment.modes & Flag.SUBSCRIBE)
                    or attachment.cursor != cursor
                    or attachment.reader is not None
                ):
                    return  # it has been placed elsewhere while we read
                if not played.entries and await self._continuous(channel, cursor):
                    client.deliver(attachment, max(cursor, channel.ring.evicted))  # it let go of ephemeral ones
                    return
                if not played.entries or played.previous > cursor:
                    raise Discontinuity(
                        channel.name, cursor, played.previous if played.entries else channel.ring.evicted
                    )
            except Discontinuity as lag:
                client.discontinued(attachment, lag)
                return
            except JournalCorrupted as error:
                LOGGER.error("replay of %r stopped: %s", channel.name, error)
                client.discontinued(attachment, Discontinuity(channel.name, cursor, channel.head))
                return
            frames = played.frames()
            if frames:
                client.transport.send_frames(frames)
            cursor = played.cursor
        client.deliver(attachment, cursor)

    async def _drained(self, client: ClientProtocol) -> None:
        """Wait until the transport has taken everything: so one client never holds more than a batch."""
        if client.open:
            event = trio.Event()
            client.drained = event.set
            client.transport.notify_drained()
            self._end_of_turn()
            await event.wait()

    async def _continuous(self, channel: Channel, cursor: int) -> bool:
        return await trio.to_thread.run_sync(
            self._journal.continuous, channel.key, channel.policy.retention, cursor, limiter=self._readers
        )

    async def _play_after(self, client: ClientProtocol, attachment: Attachment) -> Playback:
        """The next batch; nothing after the head, which readers of the stream have not seen either."""
        channel = attachment.channel
        encoder = channel.stream(client.wire, attachment.name.full).encoder
        play = partial(
            self._journal.play_after,
            channel.key,
            attachment.cursor,
            encoder,  # type: ignore[arg-type]  # opaque to the ring
            until=channel.head,
            budget=limits.REPLAY_BYTES,
            skip_origin=0 if attachment.echo else client.origin,
        )
        while True:
            try:
                return await trio.to_thread.run_sync(play, limiter=self._readers)
            except JournalUnavailable:
                await trio.sleep(RETRY_SECONDS)  # it is being reopened; who waits here costs nothing

    async def _read_after(self, channel: Channel, cursor: int, *, limit: int) -> list[Stored]:
        while True:
            try:
                page = await trio.to_thread.run_sync(
                    partial(self._journal.read_after, channel.key, cursor, limit=limit, budget=limits.REPLAY_BYTES),
                    limiter=self._readers,
                )
            except JournalUnavailable:
                await trio.sleep(RETRY_SECONDS)  # it is being reopened; who waits here costs nothing
                continue
            head = channel.head
            return [stored for stored in page if stored.serial <= head] if page and page[-1].serial > head else page

    async def _guarded(self, client: ClientProtocol, work: Callable[[], object]) -> None:
        """A failure is this client's alone."""
        try:
            await work()  # type: ignore[misc]  # a partial of one of our async methods
        except PubSubError as error:
            LOGGER.error("replay failed: %s", error)
            client.disconnect(error)
        except Exception:
            LOGGER.exception("replay failed")
            client.disconnect(PubSubError("internal error while replaying", code=50000, status=500))
        self._end_of_turn()


def _begin(newest_first: list[tuple[int, int]], floor: int, rewind: Rewind, head: int) -> int:
    """The cursor before the oldest of these entries that the rewind includes."""
    cursor, messages = head, 0
    for serial, count in newest_first:
        if serial <= floor or (rewind.messages is not None and messages >= rewind.messages):
            break
        messages += count
        cursor = serial - 1
    return cursor
