"""Reads blocks of one channel forwards or backwards from a cursor, across buckets and classes.

    one class    buckets ascend by serial: one after the other, and only those that may have the channel
    several      (a namespace changed its class): merged by serial, as blocks of one entry

Readers run beside appends. An iterator is a snapshot of its own bucket only, so the iterator of a later bucket may show
entries of an append that the one of an earlier bucket did not. Entries beyond the head, as it was before any iterator
was made, are left for the next read, so no page has a hole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import chain
from operator import attrgetter

from engine.errors import JournalCorrupted, JournalUnavailable
from engine.journal.block import SERIAL_BYTES, block_key, channel_prefix, damaged, decode, encode
from engine.journal.buckets import Bucket, BucketTable
from engine.journal.port import RawBlock, Stored, Taker
from engine.journal.store import RowIterator, Store, StoreError


class BucketGoneError(Exception):
    """Retention dropped a bucket in the middle of a read: skipping it could make a hole in a page."""


_by_serial = attrgetter("serial")


@dataclass(frozen=True, slots=True)
class BlockReader:
    store: Store
    table: BucketTable

    def feed(self, channel: str, taker: Taker) -> bool:
        """See ``engine.journal.port.Archive``. Raises: BucketGoneError; then the read can begin anew."""
        cursor, classes = taker.cursor, self.table.classes()
        if len(classes) == 1:  # the usual case
            return _hand_on(self._rows_after(channel, classes[0], cursor), taker)
        found = _non_empty([self._rows_after(channel, buckets, cursor) for buckets in classes])
        if len(found) == 1:
            return _hand_on(found[0], taker)
        streams = ((each for row in rows for each in decode(*row) if each.serial > cursor) for rows in found)
        return _hand_on(_alone(channel, merge(*streams, key=_by_serial)), taker)

    def feed_back(self, channel: str, taker: Taker) -> bool:
        cursor, classes = taker.cursor + 1, self.table.classes()
        if len(classes) == 1:
            return _hand_on(self._rows_before(channel, classes[0], cursor), taker)
        found = _non_empty([self._rows_before(channel, buckets, cursor) for buckets in classes])
        if len(found) == 1:
            return _hand_on(found[0], taker)
        streams = ((each for row in rows for each in reversed(decode(*row)) if each.serial < cursor) for rows in found)
        return _hand_on(_alone(channel, merge(*streams, key=_by_serial, reverse=True)), taker)

    def _rows_after(self, channel: str, buckets: tuple[Bucket, ...], cursor: int) -> Iterator[RawBlock]:
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

    def _rows_before(self, channel: str, buckets: tuple[Bucket, ...], cursor: int) -> Iterator[RawBlock]:
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

    def _rows(self, channel: str, bucket: Bucket) -> RowIterator:
        try:
            return self.store.rows(bucket.family)
        except StoreError as error:
            if self.table.find(bucket.retention, bucket.start_ms) is not bucket:
                raise BucketGoneError from error
            raise JournalUnavailable(f"{channel} cannot be read: {error}") from error


def _hand_on(rows: Iterable[RawBlock], taker: Taker) -> bool:
    for key, value in rows:
        try:
            more = taker.take_block(key, value)
        except ValueError as error:
            raise damaged(key, error) from error
        if not more:
            return True
    return False


def _non_empty(streams: list[Iterator[RawBlock]]) -> list[Iterable[RawBlock]]:
    """Usually returns none or one."""
    found: list[Iterable[RawBlock]] = []
    for stream in streams:
        first = next(stream, None)
        if first is not None:
            found.append(chain((first,), stream))
    return found


def _alone(channel: str, entries: Iterable[Stored]) -> Iterator[RawBlock]:
    """Each entry as a block of its own."""
    for entry in entries:
        yield from encode(channel, entry.series, [(entry.serial, entry.previous, entry.record)], 0)


def check(channel: str, rows: RowIterator) -> None:
    """An iterator also ends on a read error, which must not look like the end of the channel."""
    try:
        rows.status()
    except Exception as error:
        raise unreadable(channel, error) from error


def unreadable(channel: str, error: Exception) -> JournalCorrupted | JournalUnavailable:
    """The meaning of RocksDB's error for this channel."""
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
            rows.seek(channel + b"\1")  # past every key of this channel, which continue with a NUL
        rows.status()
    except Exception:
        return None  # readers of the damaged channel get the error, others do not
    return channels
