"""Retention by buckets of time: a column family each, dropped whole.

    name     <class>-<start ms>-<end ms>      15 digits each; class w (window) or p<hours> (persisted)
    holds    the entries with start <= serial >> 16 < end, of that class, exactly
    of one class, buckets never overlap: ascending by start they are ascending by serial

The extent is in the name because the length may be configured differently at the next start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

SERIAL_SHIFT = 16
HOUR_MS = 3_600_000
WINDOW = "w"
WINDOW_PARTS = 4  # a window of 120 s is held in five buckets of 30 s
PERSISTED_PARTS = 24  # at most a 24th more than promised is kept on disk
MIN_LENGTH_MS = 60_000  # of a persisted bucket: creating a family costs some 5 ms
MAX_HOURS = 24 * 366
# Channels known per bucket, over all buckets: some 100 bytes each. A bucket that would go beyond it
# answers "perhaps" for every channel, which costs a reader a seek of 2 us.
INDEX_ENTRIES = 1_000_000


def retention_ms(retention: str, window_ms: int) -> int:
    """How long a class is held. Raises: ValueError, for no such class."""
    if retention == WINDOW:
        return window_ms
    hours = int(retention[1:]) if retention[:1] == "p" and retention[1:].isdecimal() else 0
    if not 1 <= hours <= MAX_HOURS or retention != f"p{hours}":
        raise ValueError(f"no such retention class: {retention!r}")
    return hours * HOUR_MS


def bucket_length_ms(retention: str, window_ms: int) -> int:
    if retention == WINDOW:
        return max(window_ms // WINDOW_PARTS, 1)
    return max(retention_ms(retention, window_ms) // PERSISTED_PARTS, MIN_LENGTH_MS)


@dataclass(slots=True)
class Bucket:
    retention: str
    start_ms: int
    end_ms: int
    channels: set[str] | None = field(default_factory=set)

    @property
    def family(self) -> str:
        return f"{self.retention}-{self.start_ms:015d}-{self.end_ms:015d}"

    @property
    def first_serial(self) -> int:
        return self.start_ms << SERIAL_SHIFT

    @property
    def end_serial(self) -> int:
        """No entry of this bucket has this serial or a greater one."""
        return self.end_ms << SERIAL_SHIFT

    def may_have(self, channel: str) -> bool:
        channels = self.channels
        return channels is None or channel in channels

    @staticmethod
    def parse(family: str) -> Bucket:
        """Raises: ValueError, if this is no bucket's name."""
        retention, start, end = family.split("-")
        bucket = Bucket(retention, int(start), int(end), None)
        retention_ms(retention, 1)
        if bucket.family != family or not bucket.start_ms < bucket.end_ms:
            raise ValueError(f"no bucket is called {family!r}")
        return bucket


class BucketTable:
    """The buckets of all classes. Readers take a class's tuple as it is; a change makes a new tuple."""

    def __init__(self, buckets: Iterable[Bucket], window_ms: int, index_entries: int = INDEX_ENTRIES) -> None:
        self.window_ms = window_ms
        self._by_class: dict[str, tuple[Bucket, ...]] = {}
        self._index_entries = index_entries
        self.indexed = 0
        for bucket in buckets:
            self.add(bucket)

    def classes(self) -> tuple[tuple[Bucket, ...], ...]:
        return tuple(self._by_class.values())

    def __iter__(self) -> Iterator[Bucket]:
        return (bucket for buckets in self.classes() for bucket in buckets)

    def __len__(self) -> int:
        return sum(map(len, self.classes()))

    def find(self, retention: str, at_ms: int) -> Bucket | None:
        for bucket in reversed(self._by_class.get(retention, ())):  # nearly always the newest or the one before
            if bucket.start_ms <= at_ms:
                return bucket if at_ms < bucket.end_ms else None
        return None

    def plan(self, retention: str, at_ms: int, floor_ms: int) -> Bucket:
        """A new bucket for this time, fitted between its neighbours and above what was dropped."""
        length = bucket_length_ms(retention, self.window_ms)
        start = at_ms - at_ms % length
        end = start + length
        for other in self._by_class.get(retention, ()):
            if other.end_ms <= at_ms:
                start = max(start, other.end_ms)
            elif other.start_ms > at_ms:
                end = min(end, other.start_ms)
        return Bucket(retention, min(max(start, floor_ms), at_ms), end)

    def add(self, bucket: Bucket) -> None:
        others = self._by_class.get(bucket.retention, ())
        self._by_class[bucket.retention] = tuple(sorted((*others, bucket), key=lambda each: each.start_ms))
        self.indexed += len(bucket.channels or ())

    def remove(self, bucket: Bucket) -> None:
        others = tuple(each for each in self._by_class[bucket.retention] if each is not bucket)
        if others:
            self._by_class[bucket.retention] = others
        else:
            del self._by_class[bucket.retention]
        self.indexed -= len(bucket.channels or ())

    def note(self, bucket: Bucket, channel: str) -> None:
        """The channel has entries in the bucket, from now on."""
        channels = bucket.channels
        if channels is None or channel in channels:
            return
        if self.indexed >= self._index_entries:
            self.indexed -= len(channels)
            bucket.channels = None
            return
        channels.add(channel)
        self.indexed += 1

    def adopt(self, bucket: Bucket, channels: set[str] | None) -> None:
        """What was found in a bucket of an earlier life; None: not known."""
        bucket.channels = channels
        self.indexed += len(channels or ())

    def discard(self, bucket: Bucket, app_prefix: str) -> None:
        """Every channel of the app has gone from the bucket."""
        if bucket.channels is not None:
            kept = {channel for channel in bucket.channels if not channel.startswith(app_prefix)}
            self.indexed -= len(bucket.channels) - len(kept)
            bucket.channels = kept

    def expired(self, now_ms: int) -> list[Bucket]:
        """The buckets in which every entry is past its retention."""
        return [
            bucket
            for buckets in self.classes()
            for bucket in buckets
            if bucket.end_ms + retention_ms(bucket.retention, self.window_ms) <= now_ms
        ]
