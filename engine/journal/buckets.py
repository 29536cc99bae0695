"""Retention by buckets of time: one column family each, dropped as a whole.

    name     <class>-<start ms>-<end ms>      15 digits each; class w (window) or p<hours> (persisted)
    holds    exactly the entries of that class with start <= serial_ms(serial) < end; if the next bucket of the class
             begins before its end, only those up to there
    the buckets of one class, ascending by start, are ascending by serial

The extent is in the name because the configured length may differ at the next start.

The extent is in serials, the age in steady time (engine/timeline.py). While serials advance by counters only, because
the wall clock was set back, a bucket ends after its length of writing, before the end in its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from engine.limits import WINDOW_PARTS
from engine.timeline import Timeline
from ext.text.serial import first_serial, serial_ms

HOUR_MS = 3_600_000
WINDOW = "w"
PERSISTED_PARTS = 24  # at most a 24th more than promised is kept on disk
MIN_LENGTH_MS = 60_000  # of a persisted bucket: creating a family costs about 5 ms
MAX_HOURS = 24 * 366
# Channels known per bucket, over all buckets: about 100 bytes each. A bucket that would go beyond it
# answers "perhaps" for every channel, which costs a reader a seek of 2 us.
INDEX_ENTRIES = 1_000_000


def retention_ms(retention: str, window_ms: int) -> int:
    """How long a class is held. Raises: ValueError, for an unknown class."""
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
    family: str = ""  # its name, which does not change when the bucket ends sooner

    def __post_init__(self) -> None:
        self.family = self.family or f"{self.retention}-{self.start_ms:015d}-{self.end_ms:015d}"

    @property
    def first_serial(self) -> int:
        return first_serial(self.start_ms)

    @property
    def end_serial(self) -> int:
        """No entry of this bucket has this serial or a greater one."""
        return first_serial(self.end_ms)

    def may_have(self, channel: str) -> bool:
        channels = self.channels
        return channels is None or channel in channels

    @staticmethod
    def parse(family: str) -> Bucket:
        """Raises: ValueError, if this is not the name of a bucket."""
        retention, start, end = family.split("-")
        bucket = Bucket(retention, int(start), int(end), None)
        retention_ms(retention, 1)
        if bucket.family != family or not bucket.start_ms < bucket.end_ms:
            raise ValueError(f"no bucket is called {family!r}")
        return bucket


class BucketTable:
    """The buckets of all classes. Readers use a class's tuple as it is; a change makes a new one."""

    def __init__(
        self,
        buckets: Iterable[Bucket],
        window_ms: int,
        index_entries: int = INDEX_ENTRIES,
        timeline: Timeline | None = None,
    ) -> None:
        self.window_ms = window_ms
        self._timeline = timeline if timeline is not None else Timeline()
        self._version = -1  # of the timeline, when ``end_those_full`` last looked
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

    def end_those_full(self, head: int) -> None:
        """While serials advance by counters only, end the buckets whose length of steady time has passed.

        Call it before serials above ``head``, the newest that is in any bucket, are put into them. Nothing that is
        held lies beyond the new end: marks are made above all issued serials.
        """
        if self._version == self._timeline.version:
            return
        self._version = self._timeline.version
        for retention, buckets in tuple(self._by_class.items()):
            length = bucket_length_ms(retention, self.window_ms)
            for bucket in buckets:
                if bucket.end_serial > head:
                    full_ms = self._timeline.cut(bucket.start_ms, length, serial_ms(head))
                    bucket.end_ms = min(bucket.end_ms, full_ms)

    def plan(self, retention: str, at_ms: int, floor_ms: int) -> Bucket:
        """A new bucket for this time, fitted between its neighbours and above the dropped ones."""
        length = bucket_length_ms(retention, self.window_ms)
        start = at_ms - at_ms % length
        end = start + length
        for other in self._by_class.get(retention, ()):
            if other.end_ms <= at_ms:
                start = max(start, other.end_ms)
            elif other.start_ms > at_ms:
                end = min(end, other.start_ms)
        start = min(max(start, floor_ms), at_ms)
        return Bucket(retention, start, min(end, self._timeline.cut(start, length, at_ms)))

    def add(self, bucket: Bucket) -> None:
        others = self._by_class.get(bucket.retention, ())
        buckets = tuple(sorted((*others, bucket), key=lambda each: each.start_ms))
        for one, following in pairwise(buckets):
            one.end_ms = min(one.end_ms, following.start_ms)
        self._by_class[bucket.retention] = buckets
        self.indexed += len(bucket.channels or ())

    def remove(self, bucket: Bucket) -> None:
        others = tuple(each for each in self._by_class[bucket.retention] if each is not bucket)
        if others:
            self._by_class[bucket.retention] = others
        else:
            del self._by_class[bucket.retention]
        self.indexed -= len(bucket.channels or ())

    def note(self, bucket: Bucket, channel: str) -> None:
        """Record that the channel has entries in the bucket."""
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
        """Set the channels of a bucket from an earlier life; None: unknown."""
        bucket.channels = channels
        self.indexed += len(channels or ())

    def discard(self, bucket: Bucket, app_prefix: str) -> None:
        """All channels of the app have been removed from the bucket."""
        if bucket.channels is not None:
            kept = {channel for channel in bucket.channels if not channel.startswith(app_prefix)}
            self.indexed -= len(bucket.channels) - len(kept)
            bucket.channels = kept

    def expired(self, now_ms: int, head: int) -> list[Bucket]:
        """The buckets in which every entry is past its retention, at this steady time. ``head``: the newest serial in
        any."""
        return [
            bucket
            for buckets in self.classes()
            for bucket in buckets
            if self._all_by(bucket, head) + retention_ms(bucket.retention, self.window_ms) <= now_ms
        ]

    def _all_by(self, bucket: Bucket, head: int) -> int:
        """The steady time by which all its serials were issued: later ones are above the existing marks."""
        mark_ms = self._timeline.cut(bucket.start_ms, 0, serial_ms(head))
        return self._timeline.all_by(min(bucket.end_ms, mark_ms))
