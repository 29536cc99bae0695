"""Reading that may have to wait for the journal: where a cursor or a rewind begins, and catching up from there.

    catch_up, one batch at a time for each client that is behind:

        in the ring? ------yes--> entries ---\
             no                               frames -> transport -> drained? -> again, until a stream holds the rest
        journal.play_after (thread) ---------/
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
from server.attachment import Attachment, Rewind, shapers
from server.protocol import ClientProtocol
from server.readers import Readers

LOGGER = logging.getLogger("unbroken.replay")

TURN_SECONDS = 1.0  # until one whose rate is used up looks again: others may share it
RETRY_SECONDS = 1.0  # until a journal that can't be read just now is tried again


class Replay:
    """Serves those who are not at the head."""

    def __init__(
        self,
        journal: Journal,
        nursery: trio.Nursery,
        now_ms: Callable[[], int],
        end_of_turn: Callable[[], object],
        kick: Callable[[], None],
    ):
        """``kick`` may be called in any thread: it has ``take`` called soon."""
        self._journal = journal
        self._nursery = nursery
        self._now_ms = now_ms
        self._end_of_turn = end_of_turn
        self._readers = trio.CapacityLimiter(limits.JOURNAL_READERS)
        self._reading = Readers(limits.REPLAY_THREADS, kick)

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
        """Read on for those of the client that are behind, unless that is under way."""
        if not client.catching_up:
            client.catching_up = True
            self._next(client)

    def _next(self, client: ClientProtocol) -> None:
        """Hand one more batch to the transport: for the first that is behind, then it stands in the queue again."""
        while client.behind:
            attachment = client.behind.popleft()
            if not _wants_more(client, attachment):
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
        skip_origin = 0 if attachment.echo else client.origin
        budget = limits.SHAPED_BYTES if shapers(client.transport, channel) else limits.REPLAY_BYTES
        journal, until = self._journal, channel.head  # what is beyond it, no reader of the stream has seen either

        def read() -> tuple[Playback, bool]:
            played = journal.play_after(
                channel.key,
                cursor,
                encoder,  # type: ignore[arg-type]  # opaque to the ring
                until=until,
                budget=budget,
                skip_origin=skip_origin,
            )
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
        if not _wants_more(client, attachment) or attachment.cursor != cursor:
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
            client.disconnect(_failure(error))
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
        if client.behind is not None and _wants_more(client, attachment):
            client.behind.appendleft(attachment)
        self._next(client)
        self._end_of_turn()

    async def _next_later(self, client: ClientProtocol, seconds: float) -> None:
        """Its turn comes then; or that of others with the same key or app, and it waits for the next."""
        await trio.sleep(seconds)
        self._next(client)
        self._end_of_turn()

    def take(self) -> None:
        """Go on where batches have come from the journal meanwhile."""
        self._reading.take()

    async def run(self) -> None:
        """Until cancelled; then what has begun to be read is finished first."""
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):  # no longer than a batch takes
                await trio.to_thread.run_sync(self._reading.close)

    async def _continuous(self, channel: Channel, cursor: int) -> bool:
        return await trio.to_thread.run_sync(
            self._journal.continuous, channel.key, channel.policy.retention, cursor, limiter=self._readers
        )

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
        except Exception as error:
            LOGGER.exception("replay failed")
            client.disconnect(_failure(error))
        self._end_of_turn()


def _wants_more(client: ClientProtocol, attachment: Attachment) -> bool:
    return bool(client.open and attachment.active and attachment.reader is None and attachment.modes & Flag.SUBSCRIBE)


def _failure(error: BaseException | None) -> PubSubError:
    if isinstance(error, PubSubError):
        return error
    return PubSubError("internal error while replaying", code=50000, status=500)


def _begin(newest_first: list[tuple[int, int]], floor: int, rewind: Rewind, head: int) -> int:
    """The cursor before the oldest of these entries that the rewind includes."""
    cursor, messages = head, 0
    for serial, count in newest_first:
        if serial <= floor or (rewind.messages is not None and messages >= rewind.messages):
            break
        messages += count
        cursor = serial - 1
    return cursor
