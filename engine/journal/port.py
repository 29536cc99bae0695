"""The ports of a journal: the engine's interface to a durable log of all channels of a partition.

    AppendLog   the home writes blocks, each with an outcome, and expires them
    Archive     stored entries as raw blocks, for code that makes frames or entries of them, or searches for ids
    Notes       small facts beside the log

Is everything after a cursor still held? Two facts decide, and ``continuous`` combines them exactly:

    first = the first held entry after the cursor
    1. 0 < first.previous <= cursor < first.serial: there was never an entry between them
    2. nothing is after the cursor, but an entry at or before it is held: later ones would be too; or
       the serial of the newest dropped entry is remembered, and is at or before the cursor; or
       none is held or remembered, and ``cursor >= forgotten_floor(retention)``
    3. otherwise (first.previous == 0, which only says that nothing was held when it was written):
       only a cursor at or after the floor of its class proves it, because only older entries were dropped

Synchronous by design: it runs in worker threads. Time is an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from engine.errors import PubSubError
from engine.journal.failing import Failing
from engine.journal.lives import Lives
from engine.timeline import Timeline
from ext.log.kept import Kept


class Stored(NamedTuple):
    """One entry as the journal holds it; a tuple because a page has thousands of them."""

    serial: int
    previous: int
    series: str
    record: bytes


class Block(NamedTuple):
    """The entries that one append adds to one channel; ``entries`` are (serial, previous, record), ascending.

    A tuple, because under load there may be one for each message."""

    channel: str
    retention: str
    series: str
    entries: Sequence[tuple[int, int, bytes]] | Kept


RawBlock = tuple[bytes, bytes]  # key and value, as in engine/journal/block.py


class Taker(Protocol):
    """Parses blocks: to frames of a client's format, to ids, or to numbers."""

    @property
    def cursor(self) -> int:
        """The wanted entries are after it; or, going back, at and before it. It moves with the entries taken."""

    def take_block(self, key: bytes, value: bytes) -> bool:
        """Take one more block. True: more are wanted. Raises: ValueError, if it is damaged."""


Refused = Mapping[str, PubSubError]
"""The channels whose block an append can never store, and why."""
NONE_REFUSED: Refused = MappingProxyType({})


class AppendLog(Protocol):
    """The log in which a home stores numbered entries: one caller at a time. (``maintain`` and ``raise_head`` may run
    beside ``append``; each uses its own lock.)"""

    def lives_for(self, synced: bool) -> Lives:
        """The lives whose serials a log knows. After a power cut the written log knows no earlier ones, because
        acknowledged entries of it may be missing."""

    def series_for(self, synced: bool) -> str:
        """The series for a block appended with this durability: that of the present life."""

    def head(self) -> int:
        """No serial at or below this one may be issued again; survives every retention. An issued position is never
        beyond it: the next life does not recognise serials beyond it as issued by this one."""

    def raise_head(self, serial: int) -> None:
        """Everything up to this serial has been issued, or never will be; some of it is not stored here.
        Not synced, as ``note``."""

    @property
    def timeline(self) -> Timeline:
        """The times at which serials were issued. The issuer changes it; it is stored with the entries."""

    @property
    def clock_noted(self) -> bytes | None:
        """The last note of ``maintain``, as of the opening."""

    def relayout(self, layout: str) -> None:
        """Namespaces have, or may have, other classes from now on: the floor of a channel's new class does not cover
        entries dropped in its old class, so all floors rise to the head. Synced. Same effect as opening with another
        layout."""

    def append(self, blocks: Sequence[Block], *, synced: bool) -> Refused:
        """Append all blocks or none, except those that are refused by themselves. When it returns they survive a
        power cut (synced) or a kill -9 (not)."""

    def begin(self, blocks: Sequence[Block], *, synced: bool, wake_fd: int) -> bool:
        """The first half of ``append``, which does not wait for the disk: ``wake_fd`` (an eventfd) is written when
        ``end`` will not have to wait either. Write nothing else in between.

        Returns: False, if this is not possible at the moment; nothing has happened then. Raises: as ``append``.
        """

    @property
    def ended(self) -> bool:
        """The append under way can be ended without waiting."""

    def wait(self) -> None:
        """Wait until it can be ended; call it from another thread than ``begin``."""

    def end(self) -> Refused:
        """The second half, after which the entries are visible. Returns and raises: as ``append``."""

    def holds(self, channel: str, serial: int) -> bool:
        """Is exactly this entry held? Used after ``recover`` for entries in doubt."""

    def erase(self, channel: str, serials: Sequence[int]) -> None:
        """Remove entries of a refused append that ``recover`` found persisted."""

    def forget(self, app_prefix: str) -> None:
        """Drop all data of the channels whose key begins with this prefix."""

    def recover(self) -> None:
        """After a failed append the state is unknown: reopen from the disk."""

    def maintain(self, now_ms: int, noted: bytes = b"") -> None:
        """Drop entries past their retention at this steady time, create the next buckets ahead of it, and store the
        clocks' note, if given; called every second or so."""

    def close(self) -> None:
        """Flush, and leave the mark that nothing was lost. The journal is unusable afterwards."""


class Archive(Protocol):
    """The stored entries, for readers: raw blocks, and how far back they reach. In any thread, at any time.

    Every method may raise JournalCorrupted, for that channel only."""

    failing: Failing
    """Tracks failing reads, for monitoring; the caller of each failed read gets an error in any case."""

    def head(self) -> int:
        """Nothing beyond this serial is visible yet."""

    def feed(self, channel: str, taker: Taker) -> bool:
        """Pass it the blocks with entries after its cursor, ascending, until it wants no more; the first may also have
        earlier entries. There is no gap between them: if retention drops some meanwhile, the pass ends before those.

        Returns: True, if there may be more.
        """

    def feed_back(self, channel: str, taker: Taker) -> bool:
        """The same with entries up to its cursor, descending; the first block may also have later ones."""

    def last_serial(self, channel: str) -> int:
        """The serial of the newest entry held; or else of the newest one that was dropped, as long as it is remembered;
        or else 0: then everything after ``forgotten_floor`` is known. Never too small."""

    def forgotten_floor(self, retention: str) -> int:
        """The smallest cursor after which a channel of this class whose ``last_serial`` is 0 had no entry.
        Ask for ``last_serial`` (or ``wake``) first: this only rises."""

    def continuous(self, channel: str, retention: str, cursor: int) -> bool:
        """Is every entry of the channel after ``cursor`` still held? False also when that is unknown."""


class Notes(Protocol):
    """Small facts beside the log."""

    def note(self, rows: Mapping[bytes, bytes], forget: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Store small facts by key, all or none, beside the log; and drop those in some ranges (first, end). Not
        synced: a power cut may lose the newest, until the next append's sync makes them safe."""

    def noted(self, begin: bytes, end: bytes, *, limit: int, backwards: bool = False) -> list[tuple[bytes, bytes]]:
        """Facts with begin <= key < end in the order of their keys, or the last ones first; at most ``limit``."""


class Journal(AppendLog, Archive, Notes, Protocol):
    """All three, of one partition. Every method may raise JournalUnavailable."""
