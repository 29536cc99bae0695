"""Numbers each publish once, and makes it visible when it is durable.

    decide   dedup? -> serial -> pending            invisible; but its ids are remembered already
    take     pending -> one batch of blocks         each entry gets the serial of the one before it
    commit   ring, streams, completions             after the journal has it
    undo     ids forgotten, completions refused     the journal does not have it: the retry is a first try again

One batch is under way at a time; the next one gathers meanwhile. A repeat of an id under way waits for the outcome of
the first publish. A repeat must have the content of the first (engine/repeats.py), which is staged, in the ring, or in
the journal; engine/holding.py has the journal searched."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from engine.channel import Channel
from engine.errors import LimitExceeded, PublishRejected, PubSubError
from engine.journal.port import NONE_REFUSED, Block, Refused, Stored
from engine.limits import WAITING_BYTES
from engine.repeats import other_content, repeats
from ext.log.author import Author
from ext.log.decision import Decision
from ext.log.dedup import DedupWindow
from ext.log.entry import Entry
from ext.log.ring import EPHEMERAL
from ext.log.sequence import Sequence
from ext.log.stream import Stream
from ext.wire.encoder import encode_record, record_ids
from ext.wire.publish import Publish


class Completion(Protocol):
    """The publisher's callback: exactly one of the two methods is called, once."""

    def accepted(self, serial: int, series: str, index: int, count: int) -> None:
        """Stored: the messages have ``serial``, from ``index`` on."""

    def refused(self, error: PubSubError) -> None:
        """Not stored; or, with OutcomeUnknown, perhaps stored."""


class Batch(NamedTuple):
    """The content of one append: the entries by channel, and as blocks for the journal (fewer: not all are kept)."""

    groups: list[tuple[Channel, list[Entry]]]
    blocks: list[Block]
    synced: bool


def overloaded() -> LimitExceeded:
    """The error for a publisher that continues despite back-pressure: the disk does not keep up."""
    told = "too many messages are on their way to the journal; try again"
    return LimitExceeded(told, code=50004, status=503, retry_after_ms=1000)


@dataclass(frozen=True, slots=True)
class Found:
    """The journal's entry with a serial; None if it no longer has it."""

    serial: int
    stored: Stored | None


@dataclass(slots=True, eq=False)
class Asked:
    """A requested publish."""

    channel: Channel
    publish: Publish
    base_id: str  # message ``i`` without an id of its own is ``<base_id>:<i>``
    author: Author
    completion: Completion  # called now or later, in any case
    found: Found | None = None  # the journal's answer for a wanted serial

    @property
    def size(self) -> int:
        """Bytes held while it waits."""
        return len(self.publish.messages) + WAITING_BYTES

    @property
    def may_be_of_before(self) -> bool:
        """May an earlier life of the server have used its ids? Ids made here, and those of connections opened in this
        life, are random and new."""
        return self.author.inherited or self.publish.ids is not None

    @property
    def flags(self) -> int:
        return EPHEMERAL if self.publish.ephemeral else 0

    def record(self) -> bytes:
        """The record that would be stored."""
        author = self.author
        return encode_record(self.base_id, author.connection_id, author.client_id, self.flags, self.publish.messages)

    def ids(self) -> tuple[str, ...]:
        if self.publish.ids is not None:
            return self.publish.ids
        return tuple([f"{self.base_id}:{i}" for i in range(self.publish.count)])


class Need(Enum):
    """Why a publish cannot be decided yet."""

    EARLIER_IDS = "the ids of earlier lives"


class Sequencer(Sequence):
    """Acts on a decision (``Sequence.decide``): a serial, the outcome of the first publish, a refusal, or a wait."""

    def decide(self, asked: Asked) -> Need | int | None:
        """Give the publish a serial, find its existing one, or refuse it; its completion is called now or later.

        Returns: None when decided. Otherwise nothing has happened, and the result is the missing information: the ids
            of earlier lives, or the journal's entry with this serial (``asked.found``), because a repeat must have the
            content of the first.
        """
        decision = self._stage(asked)
        if decision == Decision.SEEN:
            serial = self._first(asked)
            if serial is not None and (asked.found is None or asked.found.serial != serial):
                return serial
            if serial is None:
                return None
            # The journal has dropped it, so it is past the window: its ids no longer count.
            channel, ids = asked.channel, list(asked.ids())
            for window in self._windows(asked):
                self.common.forget(channel.meter, window.remove_all(ids, serial))
            decision = self._stage(asked)
        if decision == Decision.EARLIER_IDS:
            return Need.EARLIER_IDS
        if decision != Decision.NEW:
            asked.completion.refused(self._refusal(asked, decision))
        return None

    def _stage(self, asked: Asked) -> int:
        publish = asked.publish
        return self.stage(
            asked.channel,
            asked.base_id,
            publish.ids,
            publish.count,
            asked.may_be_of_before,
            asked.flags,
            asked.author.origin,
            asked.record,
            asked.completion,
        )

    def _windows(self, asked: Asked) -> list[DedupWindow]:
        """The windows that may have its ids."""
        channel = asked.channel
        return [channel.dedup] + ([channel.earlier] if channel.earlier is not None and asked.may_be_of_before else [])

    def _first(self, asked: Asked) -> int | None:
        """Answer a publish with used ids; or return the serial of the first one, if its content is not at hand."""
        ids, count = asked.ids(), asked.publish.count
        seen = [known for window in self._windows(asked) for known in map(window.find, ids) if known is not None]
        if len(seen) < count or len({serial for serial, _ in seen}) > 1:
            asked.completion.refused(
                PublishRejected(
                    f"{len(seen)} of the {count} message ids have been used in other publishes on this channel",
                    code=40031,
                    status=400,
                )
            )
            return None
        serial, index = seen[0]
        same = self._repeats(asked, serial, index)
        if same is None:
            return serial
        self._answer(asked, same, serial, index)
        return None

    def _refusal(self, asked: Asked, decision: int) -> PubSubError:
        """The error for a publish that cannot be staged."""
        if decision == Decision.FULL:
            return self._full(asked.channel, asked.publish.count)
        if decision == Decision.OVERFULL:
            return overloaded()
        assert decision == Decision.REFUSING and isinstance(self.refusing, PubSubError)
        return self.refusing

    def _repeats(self, asked: Asked, serial: int, index: int) -> bool | None:
        """Does its content equal that of the entry with its ids? None if that is not at hand."""
        channel, again, found = asked.channel, asked.record(), asked.found
        staged = channel.staged_entry(serial)
        first = staged.record if staged is not None else channel.shown_record(serial)
        if first is None and found is not None and found.serial == serial and found.stored is not None:
            first = found.stored.record
        if first is not None:
            return repeats(first, index, again)
        return channel.prints.matches(serial, again) if channel.prints is not None else None

    def _answer(self, asked: Asked, same: bool, serial: int, index: int) -> None:
        """Answer a publish whose ids are those of the entry with this serial, from ``index`` on."""
        channel, completion, count = asked.channel, asked.completion, asked.publish.count
        if not same:
            completion.refused(other_content(asked.ids()[0]))
        elif (first := channel.staged_entry(serial)) is not None:
            first.follow(completion, index, count)
        else:
            stored = asked.found.stored if asked.found is not None and asked.found.serial == serial else None
            series = stored.series if stored is not None else channel.policy.series_of(serial)
            completion.accepted(serial, series, index, count)

    def _full(self, channel: Channel, count: int) -> LimitExceeded:
        """The error when no more message ids may be remembered in this channel."""
        most, meter = self.common.max_remembered, channel.meter
        if meter is None or self.common.remembered + count > most:
            told = f"the server remembers {most} message ids, the maximum"
        elif meter.max_remembered:
            own = meter.max_remembered
            told = f"app {channel.app_id} has {meter.remembered} message ids remembered, the maximum is {own}"
        else:
            told = f"app {channel.app_id} has {meter.remembered} message ids remembered, its share of {most}"
        return LimitExceeded(f"{told}; try again when older ones have expired", code=42910)

    def take(self) -> Batch | None:
        """Everything pending, as one batch; None if nothing is. Commit or undo it before the next call."""
        if not len(self):
            return None
        return Batch(*self.take_pending(Block))

    def commit(self, batch: Batch, refused: Refused = NONE_REFUSED) -> list[Stream]:
        """The journal has it, except the blocks of refused channels: reveal it, and answer the publishers.

        Returns: the streams that have grown.
        """
        if not refused:
            return self._commit(batch.groups)
        moved = self._commit([group for group in batch.groups if group[0].key not in refused])
        for group in batch.groups:
            if group[0].key in refused:
                self._undo([group], refused[group[0].key])
        return moved

    def undo(self, batch: Batch, error: PubSubError) -> None:
        """The journal does not have it: forget its ids, so that a retry is a first try, and refuse it."""
        self._undo(batch.groups, error)

    def _undo(self, groups: list[tuple[Channel, list[Entry]]], error: PubSubError) -> None:
        self._forget_ids(groups)
        self.settle(groups, error)

    def pass_by(self, error: PubSubError) -> list[Stream]:
        """While nothing can be stored: refuse pending entries, reveal those that need no journal. Returns: as
        ``commit``."""
        free, bound = self.part_pending()
        self._forget_ids(bound)
        self.refuse(bound, error)
        return self._commit(free)

    def _commit(self, groups: list[tuple[Channel, list[Entry]]]) -> list[Stream]:
        moved = self.reveal(groups)
        self.settle(groups)
        return moved

    def _forget_ids(self, groups: list[tuple[Channel, list[Entry]]]) -> None:
        for channel, entries in groups:
            for entry in entries:
                self.common.forget(channel.meter, channel.dedup.remove_all(record_ids(entry.record), entry.serial))
