"""Where new attachments begin to read: whether their cursor is still held, and how far back their rewind reaches.

    locate, rewound --known from memory--> found(...), in the same step
          | else
          v
    a search, in its client's queue; clients take turns, a slice each          ring: on the loop, a limit of entries
          |                                                                    journal: in a thread, a limit of bytes
          v
    found(...), a few in each turn

A count carries a cursor and a number, but no entry (ext/disk/countback.pyx). If a rewind needs only the last messages
of an entry, the encoder of its frame gets the number to leave out. All waiting rewinds of a channel share one search:
it goes back once, and stops wherever one of them begins. It skips clients that have left, and a search without waiting
clients ends with its slice."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from engine import limits
from engine.channelview import ChannelView
from engine.errors import JournalCorrupted, JournalUnavailable, PubSubError
from engine.journal import entries
from engine.journal.port import Stored
from engine.partition import Partition
from ext.disk.countback import Countback, cursor_before, max_messages
from ext.text.serial import last_serial_before
from server.node.readers import Readers, Work
from server.realtime.attachment import Attachment
from server.realtime.params import Rewind
from server.realtime.session import Session

LOGGER = logging.getLogger("unbroken.replay")

ALL = (1 << 64) - 1  # messages: no limit
LOOP_SECONDS = 0.001  # per turn: for scanning rings, and for reporting results
RETRY_SECONDS = 1.0  # between attempts to read an unavailable journal

Found = Callable[[int, int, bool], None]
"""Called with the cursor where a rewind begins; the number of messages to leave out of the entry right after it,
because the rewind begins behind them; and whether the channel holds less than the rewind asks for."""

OlderThan = Callable[[Partition, int], int]
"""The milliseconds of a partition's serials below which everything is older than the given age in ms."""


class PendingRewind:
    """One rewind: it begins ``messages`` messages back, possibly inside an entry, but not before ``floor``."""

    __slots__ = ("attachment", "client", "cut", "dropped", "floor", "found", "messages")

    def __init__(
        self, client: Session, attachment: Attachment, messages: int, floor: int, cut: bool, found: Found
    ) -> None:
        self.client = client
        self.attachment = attachment
        self.messages = messages
        self.floor = floor
        self.cut = cut  # its channel does not hold all that it asks for
        self.found = found
        self.dropped = False  # already reported

    @property
    def waits(self) -> bool:
        return self.client.open and self.attachment.active and not self.dropped

    def tell(self, cursor: int, omit: int, older_than: OlderThan) -> None:
        """Report the cursor; or, because counting takes time, the first cursor from which everything is still held."""
        channel = self.attachment.channel
        if not channel.partition.kept:
            held = channel.ring.evicted
        else:
            held = last_serial_before(older_than(channel.partition, channel.policy.retained_ms))
        self.found(min(max(cursor, held), channel.head), omit if cursor >= held else 0, self.cut)


class Search(Protocol):
    """A search for a start position."""

    def owner(self) -> Session | None:
        """The client in whose queue it stands; None when no client waits for it any more."""

    def look(self) -> Work | None:
        """Continue in memory. None: there is more to do in memory; otherwise the next slice, for a thread."""

    def looked(self, result: Any) -> bool:
        """Take the result of a slice. True: the search continues."""

    def failed(self, error: BaseException) -> None:
        """The search cannot continue."""


class Question:
    """A question that the journal answers in one step."""

    def __init__(
        self, client: Session, attachment: Attachment, work: Work, found: Callable[[Any], None], otherwise: Any
    ) -> None:
        """``otherwise``: the result if the journal is damaged."""
        self._client = client
        self._attachment = attachment
        self._work = work
        self._found = found
        self._otherwise = otherwise

    def owner(self) -> Session | None:
        return self._client if self._client.open and self._attachment.active else None

    def look(self) -> Work:
        return self._work

    def looked(self, result: Any) -> bool:
        self._found(result)
        return False

    def failed(self, error: BaseException) -> None:
        name = self._attachment.channel.name
        LOGGER.error("the start position of %r cannot be determined: %s", name, error, exc_info=_unexpected(error))
        if isinstance(error, JournalCorrupted):
            self._found(self._otherwise)
        else:
            self._client.disconnect(failure(error))


class Count:
    """Counts how far back these rewinds of a channel reach."""

    def __init__(
        self,
        channel: ChannelView,
        waiting: dict[Attachment, PendingRewind],
        told: Callable[[PendingRewind, int, int], None],
    ) -> None:
        """
        Args:
            waiting: all pending rewinds; those of clients that have left are removed.
            told: called with a rewind, its cursor, and the number of messages to leave out of the entry after it.
        """
        self.channel = channel
        self.askers: list[PendingRewind] = []
        self._countback: Countback | None = None  # once the count has begun
        self._waiting = waiting
        self._told = told

    def owner(self) -> Session | None:
        if not all(asker.waits for asker in self.askers):
            for asker in self.askers:
                if not asker.waits:
                    self._waiting.pop(asker.attachment, None)
            self.askers = [asker for asker in self.askers if asker.waits]
        return self.askers[0].client if self.askers else None

    def look(self) -> Work | None:
        channel, count = self.channel, self._countback
        if count is None:
            count = self._countback = Countback(channel.head)
        self._aim(count)
        more = count.take_ring(channel.ring, limits.COUNT_ENTRIES)
        if more or count.stopped:
            self._arrived(count)
            return None
        if not channel.partition.kept:
            self._ended(count)
            return None
        count.budget(limits.COUNT_BYTES)
        return partial(channel.partition.journal.feed_back, channel.key, count)

    def looked(self, more: bool) -> bool:
        assert self._countback is not None
        if self._countback.stopped:
            self._arrived(self._countback)
        elif not more:
            self._ended(self._countback)
        return bool(self.askers)

    def failed(self, error: BaseException) -> None:
        """The scanned part is intact: the rewinds begin there, and report that they asked for more."""
        LOGGER.error("a rewind of %r is truncated: %s", self.channel.name, error, exc_info=_unexpected(error))
        assert self._countback is not None
        for asker in self.askers:
            asker.cut = True
        self._ended(self._countback)

    def _aim(self, count: Countback) -> None:
        """Stop at the first place where one of them begins."""
        count.aim(min(asker.messages for asker in self.askers), max(asker.floor for asker in self.askers))

    def _arrived(self, count: Countback) -> None:
        """Finish the rewinds whose messages have been counted, and those for which the next entry is too old."""
        waiting = self.askers
        self.askers = []
        for asker in waiting:
            if count.messages >= asker.messages or 0 < count.next <= asker.floor:
                self._told(asker, count.cursor, max(0, count.messages - asker.messages))
            else:
                self.askers.append(asker)

    def _ended(self, count: Countback) -> None:
        """There are no earlier entries."""
        for asker in self.askers:
            self._told(asker, count.cursor, 0)
        self.askers = []


class Beginnings:
    """Call every method on the loop; only journal searches run in threads, slice by slice."""

    def __init__(self, older_than: OlderThan, kick: Callable[[], None]) -> None:
        """``kick``: schedules a call of ``turn`` soon; callable from any thread."""
        self._older_than = older_than
        self._kick = kick
        self._threads = Readers(limits.COUNTS_AT_ONCE, kick)
        self._under_way = 0
        self._queues: dict[Session, deque[Search]] = {}  # in order of turns
        self._gathering: dict[ChannelView, Count] = {}  # not begun yet: further rewinds may join
        self._askers: dict[Attachment, PendingRewind] = {}  # not reported yet
        self._told: deque[tuple[PendingRewind, int, int]] = deque()  # results to report
        self._resting: deque[tuple[float, Search]] = deque()  # until the journal can be read again

    def __len__(self) -> int:
        """The number of searches waiting for a turn."""
        return sum(map(len, self._queues.values())) + len(self._resting)

    def locate(self, client: Session, attachment: Attachment, cursor: int, found: Callable[[bool], None]) -> None:
        """Find out whether everything after ``cursor`` is still held. The ring has been checked already."""
        channel = attachment.channel
        if not channel.partition.kept:
            found(False)
            return
        work = partial(channel.partition.journal.continuous, channel.key, channel.policy.retention, cursor)
        self._enqueue(client, Question(client, attachment, work, found, False))

    def rewound(self, client: Session, attachment: Attachment, rewind: Rewind, found: Found) -> None:
        """Find where the rewind begins."""
        channel = attachment.channel
        retained_ms = channel.policy.retained_ms
        window_ms = retained_ms if rewind.window_ms is None else rewind.window_ms
        floor = last_serial_before(self._older_than(channel.partition, min(window_ms, retained_ms)))
        cut = window_ms > retained_ms
        messages = ALL if rewind.messages is None else rewind.messages
        whole = not channel.partition.kept or channel.in_ring(floor)  # everything that counts is in memory
        if whole and messages >= max_messages(channel.ring):
            begins = cursor_before(channel.ring, floor)
            found(channel.head if begins is None else min(begins, channel.head), 0, cut)
            return
        if messages == ALL:
            self._since(client, attachment, floor, cut, found)
            return
        count = Countback(channel.head)
        count.aim(messages, floor)
        if not count.take_ring(channel.ring, limits.COUNT_AT_ONCE) and (count.stopped or whole):
            found(count.cursor, max(0, count.messages - messages), cut)
            return
        search = self._gathering.get(channel)
        if search is None or search.owner() is None:
            search = Count(channel, self._askers, lambda *told: self._told.append(told))
            self._gathering[channel] = search
            self._enqueue(client, search)
        asker = self._askers[attachment] = PendingRewind(client, attachment, messages, floor, cut, found)
        search.askers.append(asker)

    def hurry(self, attachment: Attachment) -> None:
        """The client has made another request: if its rewind is still being counted, begin at the head."""
        asker = self._askers.pop(attachment, None)
        if asker is not None and asker.waits:
            asker.dropped = True
            attachment.hurried = True
            asker.found(attachment.channel.head, 0, False)

    def turn(self) -> None:
        """Continue searches after their threads' results, report a few positions, and start the next slices."""
        self._threads.take()
        if self._resting and self._resting[0][0] <= time.monotonic():
            self._rise()
        if not self._told and not self._queues:
            return
        late = time.perf_counter() + LOOP_SECONDS
        while time.perf_counter() < late:
            if self._told:
                asker, cursor, omit = self._told.popleft()
                self._askers.pop(asker.attachment, None)
                if asker.waits:
                    asker.tell(cursor, omit, self._older_than)
            elif self._queues and self._under_way < limits.COUNTS_AT_ONCE:
                self._next()
            else:
                return
        self._kick()

    def close(self) -> None:
        """Finish the searches under way. Blocks."""
        self._threads.close()

    def _since(self, client: Session, attachment: Attachment, floor: int, cut: bool, found: Found) -> None:
        """Begin with the first entry after ``floor``, regardless of the number of messages."""
        channel = attachment.channel

        def first(page: list[Stored]) -> None:
            found(min(page[0].serial - 1, channel.head) if page else channel.head, 0, cut)

        work = partial(entries.after, channel.partition.journal, channel.key, floor, limit=1, budget=0)
        self._enqueue(client, Question(client, attachment, work, first, []))

    def _enqueue(self, client: Session, search: Search) -> None:
        self._queues.setdefault(client, deque()).append(search)

    def _next(self) -> None:
        """Run one slice, for the next client in turn."""
        client = next(iter(self._queues))
        queue = self._queues.pop(client)
        search = queue.popleft()
        if queue:
            self._queues[client] = queue  # at the end of the line
        owner = search.owner()
        if owner is not None and owner is not client:  # the first client has left; others still wait
            self._enqueue(owner, search)
            return
        if isinstance(search, Count) and self._gathering.get(search.channel) is search:
            del self._gathering[search.channel]
        if owner is None:
            return
        try:
            work = search.look()
        except Exception as error:
            self._looked(client, search, None, error)
            return
        if work is not None:
            self._under_way += 1
            self._threads.start(work, partial(self._done, client, search))
        elif search.owner() is not None:
            self._again(client, search)

    def _done(self, client: Session, search: Search, result: Any, error: BaseException | None) -> None:
        self._under_way -= 1
        self._looked(client, search, result, error)

    def _looked(self, client: Session, search: Search, result: Any, error: BaseException | None) -> None:
        if search.owner() is None:
            return
        if isinstance(error, JournalUnavailable):  # it is being reopened; waiting here costs nothing
            self._resting.append((time.monotonic() + RETRY_SECONDS, search))
        elif error is not None:
            search.failed(error)
        elif search.looked(result):
            self._again(client, search)

    def _again(self, client: Session, search: Search) -> None:
        """Continue the search at the client's next turn."""
        self._queues.setdefault(client, deque()).appendleft(search)

    def _rise(self) -> None:
        resting, self._resting = self._resting, deque()
        for _, search in resting:
            owner = search.owner()
            if owner is not None:
                self._enqueue(owner, search)


def _unexpected(error: BaseException) -> BaseException | None:
    """The error, if it deserves a traceback."""
    return None if isinstance(error, PubSubError) else error


def failure(error: BaseException | None) -> PubSubError:
    """The error for the client."""
    if isinstance(error, PubSubError):
        return error
    return PubSubError("internal error while replaying", code=50000, status=500)
