"""Blocks of one channel, read on or back from a cursor, across buckets and classes.

    one class    buckets ascend by serial: one after the other, and only those that may have the channel
    several      (a namespace changed its class): merged by serial

Readers run beside appends. An iterator is a snapshot of its own bucket only, so one taken of a later
bucket may show entries of an append that the earlier bucket's did not: whatever is beyond ``visible``,
read before any iterator was made, is left for the next read, and no page has a hole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import chain
from operator import attrgetter

from engine.errors import JournalCorrupted, JournalUnavailable
from engine.journal.block import SERIAL_BYTES, block_key, channel_prefix, count_back, decode, play
from engine.journal.buckets import Bucket, BucketTable
from engine.journal.port import Stored
from engine.journal.store import Rows, Store, StoreError
from ext.countback import Countback
from ext.playback import Playback
from ext.recall import Recall


class BucketGoneError(Exception):
    """Retention dropped a bucket in the middle of a read: to skip it could make a hole in a page."""


_by_serial = attrgetter("serial")


@dataclass(frozen=True, slots=True)
class Reader:
    store: Store
    table: BucketTable
    visible: int

    def after(self, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        streams = _non_empty([self._forward(channel, buckets, cursor) for buckets in self.table.classes()])
        if len(streams) > 1:
            merged = merge(*map(chain.from_iterable, streams), key=_by_serial)
            return take(([entry] for entry in merged), limit, budget)
        return take(streams[0], limit, budget) if streams else []

    def play(self, channel: str, playback: Playback | Recall) -> None:
        """Fill it with what comes after its cursor."""
        classes = self.table.classes()
        if len(classes) > 1:
            streams = _non_empty([self._forward(channel, buckets, playback.cursor) for buckets in classes])
            for stored in merge(*map(chain.from_iterable, streams), key=_by_serial):
                if not playback.take(*stored):
                    return
        for buckets in classes[:1]:
            for key, value in self._rows_after(channel, buckets, playback.cursor):
                if not play(key, value, playback):
                    return

    def before(self, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        cursor = min(cursor, self.visible + 1)
        streams = _non_empty([self._backward(channel, buckets, cursor) for buckets in self.table.classes()])
        if len(streams) > 1:
            merged = merge(*map(chain.from_iterable, streams), key=_by_serial, reverse=True)
            return take(([entry] for entry in merged), limit, budget)
        return take(streams[0], limit, budget) if streams else []

    def count_back(self, channel: str, countback: Countback) -> bool:
        """Go on with it, as far as it may. True: there is more to go over."""
        cursor = min(countback.cursor, self.visible) + 1
        classes = [buckets for buckets in self.table.classes() if any(bucket.may_have(channel) for bucket in buckets)]
        if len(classes) > 1:
            streams = _non_empty([self._backward(channel, buckets, cursor) for buckets in classes])
            for stored in merge(*map(chain.from_iterable, streams), key=_by_serial, reverse=True):
                if not countback.take(stored.serial, stored.record):
                    return not countback.stopped
        for buckets in classes if len(classes) == 1 else ():
            for key, value in self._rows_before(channel, buckets, cursor):
                if not count_back(key, value, countback):
                    return not countback.stopped
        return False

    def _forward(self, channel: str, buckets: tuple[Bucket, ...], cursor: int) -> Iterator[list[Stored]]:
        for key, value in self._rows_after(channel, buckets, cursor):
            entries = decode(key, value)
            if entries[0].serial <= cursor:
                entries = [entry for entry in entries if entry.serial > cursor]
            if entries and entries[-1].serial > self.visible:
                entries = [entry for entry in entries if entry.serial <= self.visible]
            if entries:
                yield entries

    def _rows_after(self, channel: str, buckets: tuple[Bucket, ...], cursor: int) -> Iterator[tuple[bytes, bytes]]:
        """Every block that may have entries after the cursor, ascending; the first may also have some before it."""
        prefix = channel_prefix(channel)
        for bucket in buckets:
            if bucket.end_serial <= cursor + 1 or not bucket.may_have(channel):
                continue
            rows = self._rows(channel, bucket)
            if bucket.first_serial <= cursor:
                rows.seek_for_prev(block_key(prefix, cursor))  # the block that may span the cursor
                if not rows.valid() or not rows.key().startswith(prefix):
                    check(channel, rows)
                    rows.seek(prefix)
            else:
                rows.seek(prefix)
            while rows.valid() and (key := rows.key()).startswith(prefix):
                yield key, rows.value()
                rows.next()
            check(channel, rows)

    def _backward(self, channel: str, buckets: tuple[Bucket, ...], cursor: int) -> Iterator[list[Stored]]:
        for key, value in self._rows_before(channel, buckets, cursor):
            entries = decode(key, value)
            if entries[-1].serial >= cursor:
                entries = [entry for entry in entries if entry.serial < cursor]
            entries.reverse()
            if entries:
                yield entries

    def _rows_before(self, channel: str, buckets: tuple[Bucket, ...], cursor: int) -> Iterator[tuple[bytes, bytes]]:
        """Every block that may have entries before the cursor, descending; the first may also have some after it."""
        prefix = channel_prefix(channel)
        for bucket in reversed(buckets):
            if bucket.first_serial >= cursor or not bucket.may_have(channel):
                continue
            rows = self._rows(channel, bucket)
            rows.seek_for_prev(block_key(prefix, cursor - 1))
            while rows.valid() and (key := rows.key()).startswith(prefix):
                yield key, rows.value()
                rows.prev()
            check(channel, rows)

    def _rows(self, channel: str, bucket: Bucket) -> Rows:
        try:
            return self.store.rows(bucket.family)
        except StoreError as error:
            if self.table.find(bucket.retention, bucket.start_ms) is not bucket:
                raise BucketGoneError from error
            raise JournalUnavailable(f"{channel} cannot be read: {error}") from error


def _non_empty(streams: list[Iterator[list[Stored]]]) -> list[Iterable[list[Stored]]]:
    """Nearly always none or one."""
    found: list[Iterable[list[Stored]]] = []
    for stream in streams:
        first = next(stream, None)
        if first is not None:
            found.append(chain((first,), stream))
    return found


def take(blocks: Iterable[list[Stored]], limit: int, budget: int) -> list[Stored]:
    """Entries up to the limits, and one in any case. Raises: ValueError, for a limit below 1."""
    if limit < 1:
        raise ValueError(f"a page has at least one entry, got a limit of {limit}")
    page: list[Stored] = []
    for entries in blocks:
        budget -= sum(len(entry[3]) for entry in entries)
        if budget >= 0 and len(page) + len(entries) < limit:
            page += entries
            continue
        budget += sum(len(entry[3]) for entry in entries)
        for entry in entries:
            budget -= len(entry.record)
            if len(page) == limit or (budget < 0 and page):
                return page
            page.append(entry)
        if len(page) == limit or budget < 0:
            return page
    return page


def check(channel: str, rows: Rows) -> None:
    """An iterator also ends where it cannot read on: that is not the end of the channel."""
    try:
        rows.status()
    except Exception as error:
        raise unreadable(channel, error) from error


def unreadable(channel: str, error: Exception) -> JournalCorrupted | JournalUnavailable:
    """What RocksDB's error means for this channel."""
    if str(error).startswith("Corruption"):
        return JournalCorrupted(channel, str(error))
    return JournalUnavailable(f"{channel} cannot be read: {error}")


def channels_of(store: Store, family: str, room: int) -> set[str] | None:
    """The channels of a bucket, by one seek for each; None if they are too many, or cannot all be read."""
    channels: set[str] = set()
    try:
        rows = store.rows(family)
        rows.seek(b"")
        while rows.valid():
            if len(channels) >= room:
                return None
            channel = rows.key()[: -SERIAL_BYTES - 1]
            channels.add(channel.decode("utf-8"))
            rows.seek(channel + b"\1")  # past every key of this channel: they go on with a NUL
        rows.status()
    except Exception:
        return None  # damage is reported to whoever reads the channel that has it, not to all others
    return channels
