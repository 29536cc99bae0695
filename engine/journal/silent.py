"""Remembers silent channels: the newest dropped serial of each channel, for a day after the drop.

    family   silent-<created ms>        15 digits; entries dropped from this steady time on, until the next family
    row      channel key, UTF-8         serial 8 | series 8, of the channel's newest entry in a dropped bucket
             00                         8 bytes: the number of rows; no channel key is a NUL

A cursor at the last entry of a channel stays valid when that entry has passed its retention, because nothing came after
it. The floor of a class cannot show that, because other channels raise it too.

A channel with entries in a younger bucket of its class is skipped: that bucket will name it. The rows are in families
because a day's rows are then forgotten as entries are: dropped as a whole. ``forgotten`` is their floor: every dropped
entry with a greater serial is remembered, or followed by a remembered one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from engine.journal.block import SERIAL_BYTES, block_key, decode
from engine.journal.buckets import HOUR_MS, INDEX_ENTRIES, Bucket
from engine.journal.reading import channels_of
from engine.journal.store import Row, RowIterator, Store, StoreError
from engine.timeline import Timeline
from ext.text.serial import last_serial_before

REMEMBERED_MS = 24 * HOUR_MS
FAMILIES = 4
FAMILY_MS = REMEMBERED_MS // FAMILIES  # so at most five are searched, at about 1 us each
MAX_CHANNELS = 1_000_000  # about 60 bytes each on disk; beyond that the oldest are dropped
CHUNK = 2_000  # rows per write: appends wait about 4 ms for it
PREFIX = "silent-"
COUNT_KEY = b"\0"
LAST_SERIAL = (1 << 64) - 1
UNKNOWN_SERIES = bytes(8)  # for a serial that is only a bound for unreadable entries


@dataclass(slots=True)
class Family:
    created_ms: int
    count: int = 0

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.created_ms:015d}"


class Silent:
    """The remembered channels. ``families`` ascend; readers use the tuple as it is, a change makes a new one."""

    def __init__(
        self,
        store: Store,
        names: Iterable[str],
        forgotten: int,
        most: int = MAX_CHANNELS,
        timeline: Timeline | None = None,
    ) -> None:
        """Raises: ValueError, if one of these families does not belong here; StoreError."""
        self.forgotten = forgotten
        self._timeline = timeline if timeline is not None else Timeline()
        self._most, self._max_each = most, max(most // FAMILIES, 1)
        self.chunk = min(CHUNK, self._max_each)
        self.families: tuple[Family, ...] = ()
        for name in sorted(names):
            family = Family(int(name.removeprefix(PREFIX)))
            if family.name != name:
                raise ValueError(f"no family is called {name!r}")
            family.count = int.from_bytes(store.get(name, COUNT_KEY) or b"", "big")
            self.families += (family,)

    def find(self, store: Store, channel: str) -> tuple[int, str] | None:
        """Serial and series of the newest remembered entry; the series is empty if the serial is only a bound."""
        best = b""
        key = channel.encode("utf-8")
        for family in self.families:
            try:
                best = max(best, store.get(family.name, key) or b"")
            except StoreError:
                if family in self.families:
                    raise
                # Dropped during the search; ``forgotten``, read after this, has risen above it.
        if not best:
            return None
        serial, series = best[:SERIAL_BYTES], best[SERIAL_BYTES:]
        return int.from_bytes(serial, "big"), "" if series == UNKNOWN_SERIES else series.decode("ascii")

    def prepare(self, store: Store, now_ms: int, more: int = 0) -> None:
        """Make a family that can take ``more`` rows of the current drop."""
        newest = self.families[-1] if self.families else None
        if newest is None or now_ms >= newest.created_ms + FAMILY_MS or newest.count + more > self._max_each:
            family = Family(max(now_ms, newest.created_ms + 1) if newest else now_ms)
            store.create(family.name)
            self.families += (family,)

    def rows(self, store: Store, found: Sequence[tuple[bytes, bytes]], now_ms: int) -> list[Row]:
        """The rows to write so that these channels are remembered; never a smaller serial than before."""
        if not found:
            return []
        self.prepare(store, now_ms, len(found))
        family, added = self.families[-1], 0
        rows: list[Row] = []
        for channel, value in found:
            before = store.get(family.name, channel)
            if before is None or before < value:
                rows.append((family.name, channel, value))
                if before is None:
                    added += 1
        if rows:
            # Counted even if the write then fails: too high a count only forgets a little early.
            family.count += added
            rows.append((family.name, COUNT_KEY, family.count.to_bytes(8, "big")))
        return rows

    def named(self, store: Store, channel: bytes, serial: int, series: str) -> list[Row]:
        """The row for a channel whose younger bucket was to name it, and no longer can; see ``erase``."""
        if not self.families or not serial:
            return []  # nothing was ever dropped, or no entry came before
        name, value = self.families[-1].name, row_value(serial, series)
        return [(name, channel, max(value, store.get(name, channel) or b""))]

    def spent(self, now_ms: int, head: int, *, blind: bool) -> tuple[tuple[Family, ...], int]:
        """The families past their day, or too many; and the value of ``forgotten`` once they are dropped.

        Args:
            blind: unknown channels were dropped. The remembered serial of any channel may now be too old, so all of
                them have to go.
        """
        if blind:
            return self.families, max(self.forgotten, self._given_by(now_ms, head))
        count, forgotten, gone = sum(family.count for family in self.families), self.forgotten, 0
        for at, family in enumerate(self.families):
            newest = at + 1 == len(self.families)
            end_ms = family.created_ms + FAMILY_MS
            if not newest:
                end_ms = min(end_ms, self.families[at + 1].created_ms)
            if end_ms + REMEMBERED_MS > now_ms and (count <= self._most or newest):
                break
            # Dropped entries are older than the moment of the drop; never beyond the head (see floors).
            forgotten = max(forgotten, self._given_by(end_ms, head))
            count -= family.count
            gone = at + 1
        return self.families[:gone], forgotten

    def _given_by(self, steady_ms: int, head: int) -> int:
        """An upper bound of the serials issued before this time."""
        return min(last_serial_before(self._timeline.newest_by(steady_ms)), head)

    def remove(self, families: tuple[Family, ...], forgotten: int) -> None:
        self.forgotten = forgotten  # first: see ``find``
        self.families = self.families[len(families) :]

    def forget(self, store: Store, begin: bytes, end: bytes) -> None:
        for family in self.families:
            store.delete_range(family.name, begin, end)


def falling_silent(store: Store, bucket: Bucket, table: Iterable[Bucket]) -> list[str] | None:
    """The channels of a bucket that no younger one of its class is known to have.

    Returns: None, if they are unknown.
    """
    channels = bucket.channels
    if channels is None:
        channels = channels_of(store, bucket.family, INDEX_ENTRIES)
    if channels is None:
        return None
    younger = [
        other.channels
        for other in table
        if other.retention == bucket.retention and other.start_ms >= bucket.end_ms and other.channels
    ]
    return [channel for channel in tuple(channels) if not any(channel in others for others in younger)]


def newest_entries(store: Store, bucket: Bucket, limit: int, channels: Iterable[str]) -> Iterator[tuple[bytes, bytes]]:
    """Each channel and the value of its row. An unreadable one counts as having the serial ``limit``."""
    rows: RowIterator | None = None
    for channel in channels:
        key = channel.encode("utf-8")
        prefix = key + b"\0"
        try:
            rows = rows or store.rows(bucket.family)
            rows.seek_for_prev(block_key(prefix, LAST_SERIAL))
            rows.status()
            if not rows.valid() or not rows.key().startswith(prefix):
                # Its entries were erased. Older buckets may have relied on this one to name the channel.
                yield key, min(max(bucket.first_serial - 1, 0), limit).to_bytes(SERIAL_BYTES, "big") + UNKNOWN_SERIES
                continue
            entry = decode(rows.key(), rows.value())[-1]
        except Exception:  # for any error: claiming too little would be wrong
            yield key, limit.to_bytes(SERIAL_BYTES, "big") + UNKNOWN_SERIES
        else:
            yield key, row_value(entry.serial, entry.series)


def row_value(serial: int, series: str) -> bytes:
    return serial.to_bytes(SERIAL_BYTES, "big") + series.encode("ascii")


def chunks(found: list[str], size: int) -> Iterator[list[str]]:
    return (found[at : at + size] for at in range(0, len(found), size))
