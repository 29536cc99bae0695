"""Reads entries from the raw blocks of an archive, in pages, for callers that need them one by one.

    archive --feed, feed_back--> a taker: block after block, as it is stored, until it has enough
                                   EntriesAfter, EntriesBack    one by one
                                   ext.disk.playback                 one reader's frames
                                   ext.disk.recall                   message ids
                                   ext.disk.countback                numbers

An archive knows none of the clients' formats, so it may be in another process, or on another machine."""

from __future__ import annotations

from engine.journal.port import Archive, Stored
from ext.disk.block import decode


def after(archive: Archive, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
    """Entries with serial > cursor, ascending; at most ``limit`` entries and ``budget`` bytes of records, but at least
    one entry when there is one. Raises: ValueError, for a limit below 1; as the archive."""
    while True:
        page = EntriesAfter(cursor, limit, budget, until=archive.head())
        if not archive.feed(channel, page) or page.full:
            return page.entries  # otherwise its entries were dropped too, which leaves a hole behind it: read again


def before(archive: Archive, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
    """Entries with serial < cursor, descending; bounded like ``after``."""
    page = EntriesBack(min(cursor - 1, archive.head()), limit, budget)
    if page.cursor >= 0:
        archive.feed_back(channel, page)
    return page.entries


class _EntryTaker:
    """``entries``: those taken so far; ends when a block exceeds the page."""

    __slots__ = ("_budget", "_limit", "cursor", "entries", "full")

    def __init__(self, cursor: int, limit: int, budget: int) -> None:
        if limit < 1:
            raise ValueError(f"a page has at least one entry, got a limit of {limit}")
        self.cursor = cursor
        self.entries: list[Stored] = []
        self.full = False
        self._limit = limit
        self._budget = budget

    def _take(self, entries: list[Stored]) -> bool:
        """True: more entries fit."""
        self.full = not self._fit(entries)
        return not self.full

    def _fit(self, entries: list[Stored]) -> bool:
        taken, left = self.entries, self._budget - sum([len(entry[3]) for entry in entries])
        if left >= 0 and len(taken) + len(entries) < self._limit:
            self._budget = left
            taken += entries
        else:
            for entry in entries:
                self._budget -= len(entry.record)
                if self._budget < 0 and taken:
                    return False
                taken.append(entry)
                if len(taken) == self._limit or self._budget < 0:
                    return False
        return True


class EntriesAfter(_EntryTaker):
    """The entries after ``cursor``, up to and including ``until``."""

    __slots__ = ("_until",)

    def __init__(self, cursor: int, limit: int, budget: int, *, until: int) -> None:
        super().__init__(cursor, limit, budget)
        self._until = until

    def take_block(self, key: bytes, value: bytes) -> bool:
        """Take the next block. True: more entries fit. Raises: ValueError, if it is damaged."""
        entries, cursor, until = decode(key, value, Stored), self.cursor, self._until
        if entries[0].serial <= cursor or entries[-1].serial > until:
            entries = [entry for entry in entries if cursor < entry.serial <= until]
        if entries:
            self.cursor = entries[-1].serial
        return self._take(entries)


class EntriesBack(_EntryTaker):
    """The entries up to ``cursor``, newest first."""

    __slots__ = ()

    def take_block(self, key: bytes, value: bytes) -> bool:
        """Take the previous block. True: more entries fit. Raises: ValueError, if it is damaged."""
        entries, cursor = decode(key, value, Stored), self.cursor
        entries.reverse()
        if entries[0].serial > cursor:
            entries = [entry for entry in entries if entry.serial <= cursor]
        if entries:
            self.cursor = entries[-1].serial - 1
        return self._take(entries)
