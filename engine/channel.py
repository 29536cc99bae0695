"""A named log of messages: its ring, its window of message ids, and the streams that its readers follow.

             publish                                    attach / resume / rewind
                |                                                |
    sequencer.stage: dedup, serial                  covers(cursor)?  ring, else journal
                |                                                |
    journal.append (durable)                        place in a stream, or entries to replay first
                |                                                |
    commit: ring, one frame per wire format  ---->  readers at the head get it with the next flush

Every method is synchronous: no other task runs between its first line and its last. So nothing can get lost between
replay and live delivery."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from engine import limits
from engine.channelview import ChannelView
from engine.policy import Policy
from engine.quota import Quota
from ext.log.dedup import DedupWindow
from ext.log.home import Home
from ext.log.rate import Rate
from ext.log.ring import Ring
from ext.net.shaper import Shaper

if TYPE_CHECKING:
    from engine.partition import Partition

UNBOUNDED = (1 << 64) - 1  # no limit of the channel on the bytes of one publish


class Channel(ChannelView, Home):
    """One channel of one app, awake: the state for numbering, deduplication and delivery is in memory.

    ``last_stored`` is the serial of the newest entry in the journal, the next one's ``previous``.
    """

    __slots__ = (*ChannelView.SLOTS, "printed", "scheduled", "since", "waiting")

    def __init__(self, app_id: str, name: str, policy: Policy, partition: Partition) -> None:
        super().__init__(f"{app_id}:{name}", policy.series, kept=policy.durability != "memory")
        self.begin_view(app_id, name, policy, partition)
        self.sequence = partition.sequencer
        self.persisted = policy.retention != "w"
        self.retention = policy.retention
        self.synced = policy.durability == "synced"
        self.waiting: list[Callable[[], None]] | None = None  # None while nothing waits, to save memory
        self.printed: deque[tuple[int, int]] | None = None  # a time, and the newest serial with a print at that time
        self.scheduled = False
        self.since = 0  # ids of earlier lives are in entries after this serial

    def limit(self, quota: Quota) -> None:
        """Set or change the limits of publishing to and delivery from this channel."""
        limited_in, limited_out = quota.messages_in or quota.bytes_in, quota.messages_out or quota.bytes_out
        self.incoming = Rate(quota.messages_in, quota.bytes_in) if limited_in else None
        self.outgoing = Shaper(Rate(quota.messages_out, quota.bytes_out)) if limited_out else None
        for stream in self._streams.values() if self._streams else ():
            stream.shaper = self.outgoing
        self.max_bytes = quota.max_message_size or UNBOUNDED

    def promise(self, policy: Policy) -> None:
        """Its namespace has a new retention; the durability is the same."""
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
        """Start with the entries that the journal still has.

        Args:
            dedup: the ids of the window, from this life of the server.
            entries: the newest ones, oldest first: serial, series, record, origin.
            last_stored: the next entry's ``previous``.
            evicted: everything after this serial is in ``entries``.
            position: all future entries have greater serials; the next life of the server will know it, too.
            bounds: the ring's: entries, bytes.
            earlier: an empty window for the ids of earlier lives, still to be recalled; None if there are none in the
                window.
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

    def forget(self, steady_ms: int, oldest: int, window_ms: int) -> int:
        """Drop everything older than the continuity window; returns the number of forgotten message ids.

        Args:
            steady_ms: the time by which ids are forgotten.
            oldest: the serial below which everything is older than the window.
        """
        self.ring.trim(oldest)
        self.close_unread_streams()
        # Entries under way may be in doubt after a journal failure: their repeats must be recognised, however late. The
        # ids' clock advances again with the next publish.
        forgotten = self.dedup.expire(0 if self.first_under_way else steady_ms)
        if self.prints is not None:
            self._forget_prints(steady_ms, window_ms)
        if self.earlier is not None and self.recalled:
            forgotten += self.earlier.expire(steady_ms)
            if not len(self.earlier):
                self.earlier = None
        return forgotten

    def _forget_prints(self, steady_ms: int, window_ms: int) -> None:
        """An id may be held for a window and a bucket, so keep its print for longer than that."""
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
        """Can it be dropped from memory unnoticed? Its window has passed and nothing is attached."""
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
