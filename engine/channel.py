"""A named log of messages: its ring, its window of message ids, and the streams that its readers follow.

             publish                                    attach / resume / rewind
                |                                                |
    sequencer.stage: dedup, serial                  covers(cursor)?  ring, else journal
                |                                                |
    journal.append (durable)                        place in a stream, or entries to replay first
                |                                                |
    commit: ring, one frame per wire format  ---->  readers at the head get it with the next flush

Every method is synchronous: no other task runs between its first line and its last. That is the whole argument why
nothing is lost between replay and live."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import limits
from engine.errors import PubSubError
from engine.journal.lives import Lives
from engine.names import ChannelName
from engine.quota import Quota
from engine.shares import Tally
from ext.dedup import DedupWindow
from ext.home import Home
from ext.rate import Rate
from ext.ring import Ring, Stream
from ext.serial import serial_text
from ext.shaper import Shaper
from ext.wire import EntryEncoder

if TYPE_CHECKING:
    from engine.partition import Partition

UNBOUNDED = (1 << 64) - 1  # bytes of one publish, as far as its channel goes


@dataclass(frozen=True, slots=True)
class Policy:
    """What a namespace promises for its channels."""

    durability: str  # "synced", "written" or "memory": see engine.settings
    retention: str  # the journal's retention class
    retained_ms: int  # how far back history and rewind may reach
    series: str  # of the present life of the log that this durability class writes to
    lives: Lives | None = None  # of that log, the present one included; None: there is no other

    def series_of(self, serial: int) -> str:
        """Of the life that gave out this serial, or will."""
        return self.series if self.lives is None else self.lives.series_of(serial)

    def position(self, serial: int) -> str:
        """The text of a place in the log."""
        return serial_text(serial, self.series_of(serial))


class Channel(Home):
    """One channel of one app, awake: what it must know to number, deduplicate and deliver is in memory.

    ``head`` is the position of those who attach now: no entry at or before it will come any more. ``last_stored`` is
    the serial of the newest entry in the journal, the next one's ``previous``.
    """

    __slots__ = (
        "_plain_name",
        "_streams",
        "app_id",
        "attached",
        "failure",
        "modes",
        "name",
        "partition",
        "policy",
        "printed",
        "scheduled",
        "since",
        "tally",
        "waiting",
    )

    def __init__(self, app_id: str, name: str, policy: Policy, partition: Partition) -> None:
        super().__init__(f"{app_id}:{name}", policy.series, kept=policy.durability != "memory")
        self.partition = partition
        self.sequence = partition.sequencer
        self.persisted = policy.retention != "w"
        self.retention = policy.retention
        self.synced = policy.durability == "synced"
        self.app_id = app_id
        self.name = name
        self.policy = policy
        self.waiting: list[Callable[[], None]] | None = None  # while nothing waits: there may be a million of us
        self.failure: PubSubError | None = None  # why it can't be woken: what waits for it looks here when it is done
        self.printed: deque[tuple[int, int]] | None = (
            None  # a time, and the newest serial of which there was a print then
        )
        self.attached = 0  # attachments, live or catching up
        self.tally: Tally | None = None  # where they are counted, too
        self.modes: dict[int, int] | None = None  # how many of them have just these modes, as the protocol's flags
        self.scheduled = False
        self.since = 0  # ids of earlier lives are in entries after this serial
        self._plain_name: ChannelName | None = None
        self._streams: dict[tuple[int, str], Stream] | None = None  # from the first reader on

    def limit(self, quota: Quota) -> None:
        """What may be published here, and delivered from here; also when that has changed."""
        limited_in, limited_out = quota.messages_in or quota.bytes_in, quota.messages_out or quota.bytes_out
        self.incoming = Rate(quota.messages_in, quota.bytes_in) if limited_in else None
        self.outgoing = Shaper(Rate(quota.messages_out, quota.bytes_out)) if limited_out else None
        for stream in self._streams.values() if self._streams else ():
            stream.shaper = self.outgoing
        self.most_bytes = quota.max_message_size or UNBOUNDED

    def promise(self, policy: Policy) -> None:
        """Its namespace has another retention now; the durability is the same."""
        assert policy.durability == self.policy.durability
        self.policy = policy
        self.persisted = policy.retention != "w"
        self.retention = policy.retention

    def wake(
        self,
        dedup: DedupWindow,
        entries: Iterable[tuple[int, str, bytes, int]],
        *,
        last_stored: int,
        evicted: int,
        position: int,
        bounds: tuple[int, int],
        earlier: DedupWindow | None = None,
    ) -> None:
        """Begin, with what the journal still has.

        Args:
            dedup: the ids of the window, of this life of the server.
            entries: the newest ones, oldest first: serial, series, record, origin.
            last_stored: what the next entry will have as its ``previous``.
            evicted: everything after this serial is in ``entries``.
            position: a serial that all entries to come are after; the next life of the server will know it, too.
            bounds: the ring's: entries, bytes.
            earlier: for those of earlier lives, which are to be recalled; None: there are none that count.
        """
        assert not self.awake
        self.dedup = dedup
        self.earlier = earlier
        lives = self.policy.lives
        began = lives.began if lives else 0
        self.ring = Ring(bounds[0], bounds[1], evicted, self.series, self.share, began, lives)
        for serial, series, record, origin in entries:
            own = series == self.policy.series_of(serial)
            self.ring.append(serial, record if own else (serial, series, record), len(record), origin)
        self.ring.budget.settle()
        self.last_stored = last_stored
        self.head = max(position, last_stored)  # nothing of this channel is staged while it sleeps
        self.awake = True

    def count_attachment(self, change: int) -> None:
        """There is one more, or one less."""
        self.attached += change
        if self.tally is not None:
            self.tally.count(self.app_id, change)

    def recount(self, before: int, after: int) -> None:
        """An attachment has other modes than before; 0: it is not there."""
        if before:
            assert self.modes is not None
            self.modes[before] -= 1
            if not self.modes[before]:
                del self.modes[before]
        if after:
            if self.modes is None:
                self.modes = {}
            self.modes[after] = self.modes.get(after, 0) + 1

    def shared_name(self, name: ChannelName) -> ChannelName:
        """The name as a client has written it: one object for all who wrote the channel's own."""
        if name.full != self.name:
            return name
        if self._plain_name is None:
            self._plain_name = name
        return self._plain_name

    def stream(self, wire: int, name: str) -> Stream:
        """The stream of frames in this format, in which the channel is called ``name`` (as the client wrote it)."""
        if self._streams is None:
            self._streams = {}
        stream = self._streams.get((wire, name))
        if stream is None:
            stream = self._streams[wire, name] = Stream(self.ring, EntryEncoder(wire, name))
            stream.shaper = self.outgoing
        return stream

    def has_stream_for(self, wire: int, name: str) -> bool:
        """Is there one, or room for one more? For the channel's own name there always is."""
        streams = self._streams or {}
        if len(streams) >= limits.STREAMS_PER_CHANNEL and name != self.name and (wire, name) not in streams:
            self.close_unread_streams()
            return len(self._streams or {}) < limits.STREAMS_PER_CHANNEL
        return True

    def close_unread_streams(self) -> None:
        """Forget the frames that nobody reads. A later reader begins a new stream, and replays what lies before it."""
        for stream in self._streams.values() if self._streams else ():
            if not stream.readers_now:
                stream.close()
        if self._streams:
            self._streams = {variant: stream for variant, stream in self._streams.items() if stream.readers_now} or None

    @property
    def in_memory(self) -> bool:
        """Has it been read back? Others may still be before those who would publish now."""
        return self.ring is not None

    def in_ring(self, cursor: int) -> bool:
        """Is everything after ``cursor`` in memory?"""
        return cursor >= self.ring.evicted

    def forget(self, steady_ms: int, oldest: int, window_ms: int) -> int:
        """Let go of what is older than the continuity window; how many message ids that was.

        Args:
            steady_ms: the time by which ids are forgotten.
            oldest: the serial below which everything is older than the window.
        """
        self.ring.trim(oldest)
        self.close_unread_streams()
        # What is under way may be in doubt, under a journal that has failed: its repeats must be known, however late.
        # Time goes on with what is published next.
        forgotten = self.dedup.expire(0 if self.first_under_way else steady_ms)
        if self.prints is not None:
            self._forget_prints(steady_ms, window_ms)
        if self.earlier is not None and self.recalled:
            forgotten += self.earlier.expire(steady_ms)
            if not len(self.earlier):
                self.earlier = None
        return forgotten

    def _forget_prints(self, steady_ms: int, window_ms: int) -> None:
        """An id may be held for a window and a bucket: its print, for longer than that."""
        assert self.prints is not None
        if self.printed is None:
            self.printed = deque()
        self.printed.append((steady_ms, self.head))
        while self.printed[0][0] + window_ms + window_ms // 2 <= steady_ms:
            self.prints.trim(self.printed.popleft()[1])
            if not self.printed:
                break
        if not len(self.prints):
            self.prints = self.printed = None

    def idle(self, now_ms: int) -> bool:
        """Can it be dropped from memory without anybody noticing? Its window has passed and nobody is attached."""
        return (
            not self.attached
            and not self.staged
            and not self.waiting
            and not self.held
            and not len(self.ring)
            and not len(self.dedup)
            and self.earlier is None
            and now_ms - self.last_used_ms >= limits.CHANNEL_IDLE_MS
        )
