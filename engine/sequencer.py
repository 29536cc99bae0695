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
from ext.publish import Publish
from ext.ring import EPHEMERAL, Stream
from ext.serial import SerialClock, connection_origin
from ext.wire import encode_record


class Completion(Protocol):
    """Who published: told once, by one of the two."""

    def accepted(self, serial: int, series: str, index: int, count: int) -> None:
        """Stored: the messages have ``serial``, from ``index`` on."""

    def refused(self, error: PubSubError) -> None:
        """Not stored."""


class Staged:
    """An entry on its way to the journal."""

    __slots__ = ("channel", "completion", "count", "flags", "followers", "ids", "origin", "record", "serial")

    def __init__(
        self,
        channel: Channel,
        serial: int,
        record: bytes,
        origin: int,
        flags: int,
        ids: tuple[str, ...],
        completion: Completion,
    ) -> None:
        self.channel = channel
        self.serial = serial
        self.record = record
        self.origin = origin
        self.flags = flags
        self.ids = ids
        self.count = len(ids)
        self.completion = completion
        self.followers: list[tuple[Completion, int, int]] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one append carries: the entries by channel, and as blocks for the journal (fewer: not all are kept)."""

    entries: dict[Channel, list[Staged]]
    blocks: list[Block]
    synced: bool


class Sequencer:
    """The one place where entries get their serials."""

    def __init__(self, clock: SerialClock, most_remembered: int) -> None:
        self.clock = clock
        self.pending_bytes = 0
        self.remembered = 0  # message ids, in all channels
        self._most_remembered = most_remembered
        self._pending: list[Staged] = []
        self._under_way: dict[int, Staged] = {}

    def __len__(self) -> int:
        return len(self._pending)

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
        if self.remembered + count > self._most_remembered:
            most = self._most_remembered
            completion.refused(LimitExceeded(f"the server remembers {most} message ids, the most it may", code=42910))
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
        staged = Staged(channel, serial, record, origin, flags, ids, completion)
        channel.staged += 1
        channel.last_used_ms = now_ms
        self.remembered += count
        self.pending_bytes += len(record)
        self._under_way[serial] = staged
        self._pending.append(staged)

    def _repeat(self, channel: Channel, known: tuple[int, int], count: int, completion: Completion) -> None:
        first = self._under_way.get(known[0])
        if first is None:
            completion.accepted(known[0], channel.policy.series, known[1], count)
        elif first.followers is None:
            first.followers = [(completion, known[1], count)]
        else:
            first.followers.append((completion, known[1], count))

    def take(self) -> Batch | None:
        """Everything that is pending, as one batch; None if nothing is. To be committed or undone before the next."""
        if not self._pending:
            return None
        pending, self._pending = self._pending, []
        entries: dict[Channel, list[Staged]] = {}
        for staged in pending:
            found = entries.get(staged.channel)
            if found is None:
                entries[staged.channel] = [staged]
            else:
                found.append(staged)
        blocks, synced = [], False
        for channel, group in entries.items():
            if channel.policy.durability == "memory":
                continue
            kept, previous = [], channel.last_stored
            for staged in group:
                if not staged.flags & EPHEMERAL:
                    kept.append((staged.serial, previous, staged.record))
                    previous = staged.serial
            if kept:
                blocks.append(Block(channel.key, channel.policy.retention, channel.policy.series, kept))
                synced = synced or channel.policy.durability == "synced"
        return Batch(entries, blocks, synced)

    def commit(self, batch: Batch) -> list[Stream]:
        """The journal has it: show it, and tell those who published. Returns the streams that have grown."""
        moved: list[Stream] = []
        for channel, group in batch.entries.items():
            for staged in group:
                channel.commit(staged.serial, staged.record, staged.origin, staged.flags)
            moved += channel.moved()
            series = channel.policy.series
            for staged in group:
                self._forget(staged)
                staged.completion.accepted(staged.serial, series, 0, staged.count)
                for completion, index, count in staged.followers or ():
                    completion.accepted(staged.serial, series, index, count)
        return moved

    def undo(self, batch: Batch, error: PubSubError) -> None:
        """The journal does not have it: forget its ids, so that a retry is a first try, and refuse it."""
        for channel, group in batch.entries.items():
            for staged in group:
                self._forget(staged)
                for message_id in staged.ids:
                    self.remembered -= channel.dedup.remove(message_id, staged.serial)
                staged.completion.refused(error)
                for completion, _, _ in staged.followers or ():
                    completion.refused(error)

    def _forget(self, staged: Staged) -> None:
        staged.channel.staged -= 1
        self.pending_bytes -= len(staged.record)
        del self._under_way[staged.serial]
