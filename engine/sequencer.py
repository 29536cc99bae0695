"""Numbers what is published, once, and makes it visible when it is durable.

    stage    dedup? -> serial -> pending            nobody sees it; its ids are remembered already
    take     pending -> one batch of blocks         each entry learns the serial of the one before it
    commit   ring, streams, completions             after the journal has it
    undo     ids forgotten, completions refused     the journal does not have it: the retry is a first try again

One batch is under way at a time; the next one gathers meanwhile. A repeat of an id that is still under way waits for
the first one's outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from engine.channel import Channel
from engine.errors import LimitExceeded, PublishRejected, PubSubError
from engine.journal.port import Block
from ext.log import Entry
from ext.publish import Publish
from ext.ring import EPHEMERAL, Stream
from ext.sequence import Sequence
from ext.serial import connection_origin
from ext.wire import encode_record, record_ids


class Completion(Protocol):
    """Who published: told once, by one of the two."""

    def accepted(self, serial: int, series: str, index: int, count: int) -> None:
        """Stored: the messages have ``serial``, from ``index`` on."""

    def refused(self, error: PubSubError) -> None:
        """Not stored; or, if it is an OutcomeUnknown, perhaps."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one append carries: the entries by channel, and as blocks for the journal (fewer: not all are kept)."""

    groups: list[tuple[Channel, list[Entry]]]
    blocks: list[Block]
    synced: bool


def overloaded() -> LimitExceeded:
    """What is told to who publishes though he should have stopped: the disk does not keep up."""
    told = "more is on its way to the journal than the server may hold; try again"
    return LimitExceeded(told, code=50004, status=503, retry_after_ms=1000)


class Sequencer(Sequence):
    """The one place where entries get their serials. (Plain ones: see also ext/ingest.pyx, which does as ``stage``.)"""

    def stage(
        self,
        channel: Channel,
        publish: Publish,
        base_id: str,
        connection_id: str | None,
        client_id: str | None,
        now_ms: int,
        completion: Completion,
    ) -> None:
        """Give the publish a serial, or find that it has one. ``completion`` is told now or later, in any case.

        Args:
            base_id: message ``i`` without an id of its own is ``<base_id>:<i>``.
            connection_id: whose connection published it, if any.
            client_id: the identity of messages that name none, if it is known.
        """
        count = publish.count
        ids = publish.ids
        if ids is None:
            ids = (base_id + ":0",) if count == 1 else tuple([f"{base_id}:{i}" for i in range(count)])
        dedup = channel.dedup
        if self.refusing is not None and channel.kept and (not publish.ephemeral or channel.first_under_way):
            seen = [known for known in map(dedup.find, ids) if known is not None]
            if not seen:  # and nothing is remembered: what is in doubt must not be forgotten for what is not stored
                completion.refused(self.refusing)
                return
        if self.pending_bytes > self.most_pending:
            completion.refused(overloaded())
            return
        if not self.admits(channel, count):
            completion.refused(self._full(channel, count))
            return
        serial = self.clock.next(now_ms)
        if count == 1:
            known = dedup.add_or_find(ids[0], serial, 0)
            if known is not None:
                self._repeat(channel, known, 1, completion)
                return
        else:
            seen = [known for known in map(dedup.find, ids) if known is not None]
            if len(seen) == count and len({serial for serial, _ in seen}) == 1:
                self._repeat(channel, seen[0], count, completion)
                return
            if seen:
                completion.refused(
                    PublishRejected(
                        f"{len(seen)} of the {count} message ids have been used in other publishes on this channel",
                        code=40031,
                        status=400,
                    )
                )
                return
            if len(set(ids)) != count:
                completion.refused(
                    PublishRejected("two messages of one publish have the same id", code=40031, status=400)
                )
                return
            for index, message_id in enumerate(ids):
                dedup.add(message_id, serial, index)
        flags = EPHEMERAL if publish.ephemeral else 0
        record = encode_record(base_id, connection_id, client_id, flags, publish.messages)
        origin = connection_origin(connection_id) if connection_id is not None else 0
        channel.last_used_ms = self.steady_ms
        self.push(channel, serial, record, origin, flags, count, completion)

    def _full(self, channel: Channel, count: int) -> LimitExceeded:
        """Why no more message ids may be remembered in this channel."""
        most, meter = self.most_remembered, channel.meter
        if meter is None or self.remembered + count > most:
            told = f"the server remembers {most} message ids, the most it may"
        elif meter.most_remembered:
            own = meter.most_remembered
            told = f"app {channel.app_id} has {meter.remembered} message ids remembered, {own} at most"
        else:
            told = f"app {channel.app_id} has {meter.remembered} message ids remembered, its share of {most}"
        return LimitExceeded(f"{told}; try again when older ones have expired", code=42910)

    def _repeat(self, channel: Channel, known: tuple[int, int], count: int, completion: Completion) -> None:
        first = channel.staged_entry(known[0])
        if first is None:
            completion.accepted(known[0], channel.policy.series_of(known[0]), known[1], count)
        else:
            first.follow(completion, known[1], count)

    def take(self) -> Batch | None:
        """Everything that is pending, as one batch; None if nothing is. To be committed or undone before the next."""
        if not len(self):
            return None
        return Batch(*self.take_pending(Block))

    def commit(self, batch: Batch) -> list[Stream]:
        """The journal has it: show it, and tell those who published. Returns the streams that have grown."""
        return self.show(batch.groups)

    def undo(self, batch: Batch, error: PubSubError) -> None:
        """The journal does not have it: forget its ids, so that a retry is a first try, and refuse it."""
        self._forget_ids(batch.groups)
        self.settle(batch.groups, error)

    def pass_by(self, error: PubSubError) -> list[Stream]:
        """While nothing can be kept: refuse what is pending, show what needs no journal. Returns: as ``commit``."""
        free, bound = self.part_pending()
        self._forget_ids(bound)
        self.refuse(bound, error)
        return self.show(free)

    def release(self, batch: Batch) -> tuple[Batch, list[Stream]]:
        """The journal has failed: show what does not need it. Returns the rest, and the streams that have grown."""
        free = [group for group in batch.groups if not group[0].kept]
        rest = [group for group in batch.groups if group[0].kept]
        return Batch(rest, batch.blocks, batch.synced), self.show(free)

    def _forget_ids(self, groups: list[tuple[Channel, list[Entry]]]) -> None:
        for channel, entries in groups:
            for entry in entries:
                for message_id in record_ids(entry.record):
                    self.forget(channel, channel.dedup.remove(message_id, entry.serial))
