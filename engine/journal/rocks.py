"""The journal on RocksDB in this process: who may do what at the same time, and what after a failure.

    _appending    one writer: append, erase, forget, and taking expired buckets off the table
    _building     one changer of column families: append only when it must, maintain ahead of it
    _gate         reads pass side by side; close and recover wait until none is inside

After a failed write or sync nothing is known, so nothing is written until ``recover`` has reopened the
database and seen what the disk has. Reads go on meanwhile."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import disk_usage
from threading import Lock
from typing import NamedTuple

from engine.errors import JournalUnavailable
from engine.journal.block import block_key, channel_prefix, decode, encode
from engine.journal.buckets import INDEX_ENTRIES, SERIAL_SHIFT, Bucket, BucketTable, bucket_length_ms, retention_ms
from engine.journal.gate import Gate
from engine.journal.meta import NOTES, Meta, floor_row, forgotten_row, head_row, notes, read_boot_id
from engine.journal.port import Block, Statistics, Stored, Window
from engine.journal.reading import BucketGoneError, Reader, channels_of, check
from engine.journal.silent import MOST_CHANNELS, PREFIX, Silent, chunks, falling_silent, newest_entries
from engine.journal.store import META, MIB, RocksStore, Row, Store, StoreError
from ext.playback import Playback
from ext.wire import EntryEncoder

WINDOW_MS = 120_000
PAGE_ENTRIES = 4096  # of a waking channel's window, read lazily: what its reader holds at once
PAGE_BYTES = MIB
# Reopening writes: a manifest, options, what the logs had as tables. Below this nothing is closed, for
# what is open can at least be read.
REOPEN_SPARE_BYTES = 32 * MIB


class _Written(NamedTuple):
    """What an append has written; it is not visible yet."""

    newest: int
    entries: int
    size: int


class _NoBucketError(Exception):
    """One has to be made, which takes a few milliseconds, or waits for one that is being dropped."""


class RocksJournal:
    """See ``engine.journal.port.Journal`` for what each method promises."""

    def __init__(
        self,
        path: Path,
        *,
        window_ms: int = WINDOW_MS,
        layout: str = "",
        index_entries: int = INDEX_ENTRIES,
        silent_channels: int = MOST_CHANNELS,
        open_store: Callable[[Path], Store] = RocksStore,
        boot_id: str | None = None,
    ) -> None:
        """Open or create.

        Args:
            layout: which namespaces have which class, as text; a changed one raises every floor to the head.
            index_entries: how many (bucket, channel) pairs are remembered; beyond them it is looked up.
            silent_channels: how many are remembered beyond their retention.
            open_store, boot_id: what a test replaces.
        Raises: JournalUnavailable, with what RocksDB said and what the operator can do.
        """
        if window_ms < 1:
            raise ValueError(f"the window must be at least 1 ms, got {window_ms}")
        self._path, self._window_ms, self._layout, self._index_entries = path, window_ms, layout, index_entries
        self._open_store, self._most_silent = open_store, silent_channels
        self._boot_id = read_boot_id() if boot_id is None else boot_id
        self._appending, self._building, self._gate = Lock(), Lock(), Gate()
        self._failed: str | None = None
        self._store: Store | None = None
        self._unsynced = False
        self._begun: tuple[_Written, bool] | None = None  # and whether it is being synced
        self._closed = False
        self._known_classes: set[str] = set()  # retention classes that have been checked
        self._changes = 0  # by forget and erase: what was read before one is stale
        self._head = 0
        self._retentions: set[str] = set()  # appended to in this life: they get buckets ahead of time
        self._appends = self._entries = self._bytes = self._failures = self._recoveries = 0
        self._open()

    @property
    def series(self) -> str:
        return self._meta.series

    def series_for(self, synced: bool) -> str:
        return self._meta.series if synced else self._meta.written_series

    def head(self) -> int:
        return self._head

    def append(self, blocks: Sequence[Block], *, synced: bool) -> None:
        """Raises: JournalUnavailable (then it is unknown whether any of it was persisted), or ValueError
        for what no journal may be asked to hold; then nothing was."""
        with self._appending:
            begun = self._write(blocks)
            if synced:
                try:
                    self._writable().sync()
                except StoreError as error:
                    raise self._fail(f"an append failed: {error}") from error
                self._unsynced = False
            self._show(begun)

    def begin(self, blocks: Sequence[Block], *, synced: bool, wake_fd: int) -> bool:
        if not self._appending.acquire(blocking=False):
            return False  # maintenance has it
        try:
            begun = self._write(blocks, make_buckets=False)
            if synced:
                self._writable().begin_sync(wake_fd)
        except _NoBucketError:
            self._appending.release()
            return False  # for a thread that may wait
        except StoreError as error:
            self._appending.release()
            raise self._fail(f"an append failed: {error}") from error
        except BaseException:
            self._appending.release()
            raise
        self._begun = begun, synced
        return True

    @property
    def ended(self) -> bool:
        return self._begun is not None and (not self._begun[1] or self._begun_in().sync_ended)

    def wait(self) -> None:
        begun = self._begun  # another thread may be taking the outcome
        if begun is not None and begun[1]:
            self._begun_in().wait_for_sync()

    def end(self) -> None:
        assert self._begun is not None
        begun, synced = self._begun
        try:
            if synced:
                self._begun_in().end_sync()
                self._unsynced = False
            self._show(begun)
        except StoreError as error:
            raise self._fail(f"an append failed: {error}") from error
        finally:
            self._begun = None
            self._appending.release()

    def _begun_in(self) -> Store:
        assert self._store is not None  # whoever closes it needs the lock that ``begin`` has taken
        return self._store

    def _write(self, blocks: Sequence[Block], *, make_buckets: bool = True) -> _Written:
        store = self._writable()
        for block in blocks:
            if block.retention not in self._known_classes:
                retention_ms(block.retention, self._window_ms)
                self._known_classes.add(block.retention)
        try:
            rows, placed, newest = self._rows_of(store, blocks, make_buckets)
            for bucket, channel in placed:  # before the write: a reader must never miss it
                self._table.note(bucket, channel)
            store.write(rows)
        except StoreError as error:
            raise self._fail(f"an append failed: {error}") from error
        self._unsynced = True
        size = sum([len(row[2]) for row in rows if row[2] is not None])
        return _Written(newest, sum([len(block.entries) for block in blocks]), size)

    def _show(self, written: _Written) -> None:
        self._head = written.newest  # from here on readers see it
        self._appends += 1
        self._entries += written.entries
        self._bytes += written.size

    def read_after(self, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        with self._gate:
            while True:
                try:
                    return self._reader().after(channel, cursor, limit=limit, budget=budget)
                except BucketGoneError:
                    continue  # dropped meanwhile; the table, taken anew, no longer has it

    def play_after(
        self, channel: str, cursor: int, encoder: EntryEncoder, *, until: int, budget: int, skip_origin: int = 0
    ) -> Playback:
        with self._gate:
            while True:
                reader = self._reader()
                until = min(until, reader.visible)
                playback = Playback(encoder, cursor, until=until, budget=budget, skip_origin=skip_origin)
                try:
                    reader.play(channel, playback)
                    return playback
                except BucketGoneError:
                    continue  # begun anew, for what it has taken may now have a hole behind it

    def read_before(self, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        with self._gate:
            while True:
                try:
                    return self._reader().before(channel, cursor, limit=limit, budget=budget)
                except BucketGoneError:
                    continue

    def last(self, channel: str) -> Stored | None:
        found = self.read_before(channel, self._head + 1, limit=1, budget=0)
        return found[0] if found else None

    def holds(self, channel: str, serial: int) -> bool:
        found = self.read_after(channel, serial - 1, limit=1, budget=0)
        return bool(found) and found[0].serial == serial

    def floor(self, retention: str) -> int:
        retention_ms(retention, self._window_ms)
        return self._meta.floor(retention)

    def forgotten_floor(self, retention: str) -> int:
        return min(self.floor(retention), self._silent.forgotten)

    def last_serial(self, channel: str) -> int:
        return self._last_known(channel)[0]

    def continuous(self, channel: str, retention: str, cursor: int) -> bool:
        # The last serial first, or an entry appended meanwhile would look like one that is missing; entries
        # before floors, for a bucket leaves the table only after they have risen.
        last, vouches = self._last_known(channel)
        first = self.read_after(channel, cursor, limit=1, budget=0)
        if first:
            proven = 0 < first[0].previous <= cursor
        else:
            proven = vouches and last <= cursor if last else cursor >= self._silent.forgotten
        return proven or cursor >= self.floor(retention)

    def wake(self, channels: Sequence[str], since_ms: int) -> Mapping[str, Window]:
        since = (since_ms << SERIAL_SHIFT) - 1 if since_ms > 0 else 0
        windows = {}
        for channel in channels:
            last = self.last_serial(channel)  # a look into a few sets and rows, for one without entries
            windows[channel] = Window(last, self._pages(channel, since) if last else iter(()))
        return windows

    def forget(self, app_prefix: str) -> None:
        """Floors stay: a reader of a forgotten channel is told that it is empty, not that it has a hole."""
        begin = app_prefix.encode("utf-8")
        if not begin:
            raise ValueError("an empty prefix would drop every app")
        end = begin[:-1] + bytes((begin[-1] + 1,))  # UTF-8 never has a byte 255
        with self._appending, self._building:
            store = self._writable()
            try:
                for bucket in self._table:
                    store.delete_range(bucket.family, begin, end)
                    self._table.discard(bucket, app_prefix)
                self._silent.forget(store, begin, end)
                store.sync()
                self._changes += 1
            except StoreError as error:
                raise self._fail(f"an app could not be dropped: {error}") from error

    def erase(self, channel: str, serials: Sequence[int]) -> None:
        prefix, doomed = channel_prefix(channel), frozenset(serials)
        with self._appending:
            store = self._writable()
            try:
                rows = [row for serial in sorted(doomed) for row in self._without(store, prefix, serial, doomed)]
                if rows:
                    store.write(list(dict.fromkeys(rows)))
                    store.sync()
                self._changes += 1
            except StoreError as error:
                raise self._fail(f"entries could not be taken back: {error}") from error

    def recover(self) -> None:
        """Raises: JournalUnavailable; reads go on if nothing had to be closed. Call it again later."""
        with self._appending, self._building:
            if self._closed:
                raise JournalUnavailable("it is closed")
            if self._failed is None and self._store is not None:
                return
            if self._store is not None:
                self._check_room()
                with self._gate.closed():
                    store, self._store = self._store, None
                    try:
                        store.close()
                    except StoreError as error:
                        self._failed = f"could not flush: {error}"  # the log has what the tables miss
            self._open()
            self._failed = None
            self._recoveries += 1

    def maintain(self, now_ms: int) -> None:
        """Also syncs what was only written, so that a power cut costs that log a second, not all its logs."""
        try:
            with self._building:
                store = self._store
                if store is None or self._failed is not None:
                    return
                if self._table.expired(now_ms):
                    self._silent.prepare(store, now_ms)
                for retention in sorted(self._retentions):
                    ahead = now_ms + bucket_length_ms(retention, self._window_ms)
                    for at_ms in (now_ms, ahead):
                        if at_ms << SERIAL_SHIFT > self._head and self._table.find(retention, at_ms) is None:
                            self._create(store, retention, at_ms)
            expired = self._take_expired(now_ms)
            for family in expired:
                with self._building:  # one at a time: an append may have to create one
                    if self._store is store:  # else it was reopened meanwhile, and has them again
                        store.drop(family)
            store.trim_log()
        except StoreError as error:
            raise JournalUnavailable(f"maintenance failed: {error}") from error

    def note(self, rows: Mapping[bytes, bytes], forget: Sequence[tuple[bytes, bytes]] = ()) -> None:
        with self._appending:
            store = self._writable()
            try:
                for begin, end in forget:
                    store.delete_range(META, NOTES + begin, NOTES + end)
                store.write([(META, NOTES + key, value) for key, value in rows.items()])
                self._unsynced = True
            except StoreError as error:
                raise self._fail(f"statistics could not be written: {error}") from error

    def noted(self, begin: bytes, end: bytes, *, limit: int, backwards: bool = False) -> list[tuple[bytes, bytes]]:
        with self._gate:
            if self._store is None:
                raise JournalUnavailable(self._failed or "it is closed")
            return notes(self._store, begin, end, limit, backwards=backwards)

    def statistics(self) -> Statistics:
        with self._gate:
            store = self._store
            return Statistics(
                bytes_on_disk=_bytes_in(self._path),
                bytes_in_memory=store.bytes_in_memory() if store else 0,
                buckets=len(self._table),
                channels_indexed=self._table.indexed,
                appends=self._appends,
                entries=self._entries,
                bytes_appended=self._bytes,
                failures=self._failures,
                recoveries=self._recoveries,
                available=store is not None and self._failed is None,
            )

    def close(self) -> None:
        """Raises: JournalUnavailable, if the mark could not be left; it is closed in any case."""
        with self._appending, self._building, self._gate.closed():
            store, self._store, self._closed = self._store, None, True
            if store is None:
                return
            try:
                try:
                    if self._failed is None:
                        store.write([(META, b"clean", b"1")])
                        store.sync()
                finally:
                    store.close()
            except StoreError as error:
                raise JournalUnavailable(f"could not be closed cleanly: {error}") from error

    def _open(self) -> None:
        store: Store | None = None
        try:
            store = self._open_store(self._path)
            meta = Meta(store, self._boot_id, self._layout)
            silent = {family for family in store.families() if family.startswith(PREFIX)}
            buckets = [Bucket.parse(family) for family in store.families() if family not in silent]
            self._silent = Silent(store, silent, meta.forgotten, self._most_silent)
            store.write(meta.rows)
            store.sync()
        except (StoreError, ValueError) as error:
            if store is not None:
                try:
                    store.close()
                except StoreError as second:
                    error.add_note(str(second))
            raise JournalUnavailable(_advice(self._path, str(error))) from error
        self._meta, self._head = meta, meta.head
        self._table = BucketTable(buckets, self._window_ms, self._index_entries)
        for bucket in buckets:
            self._table.adopt(bucket, channels_of(store, bucket.family, self._index_entries - self._table.indexed))
        self._store = store

    def _rows_of(
        self, store: Store, blocks: Sequence[Block], make_buckets: bool
    ) -> tuple[list[Row], list[tuple[Bucket, str]], int]:
        """What to write; which channels will be new in which buckets; the newest serial.

        Raises: ValueError; _NoBucketError, one is missing that is not to be made. Nothing is noted then, for a bucket
        is trusted to have what is noted of it.
        """
        rows: list[Row] = []
        placed: list[tuple[Bucket, str]] = []
        last: dict[str, int] = {}
        head = newest = self._head
        retention, family, first, end = "", "", 0, 0  # of ``bucket``; most blocks go where the one before went
        for block in blocks:
            channel, entries = block.channel, block.entries
            before = last.get(channel, head)
            if not entries:
                raise ValueError(f"{channel}: a block without entries")
            while entries:
                oldest = entries[0][0]
                if retention != block.retention or not first <= oldest < end:
                    if not before < oldest < 1 << 64:
                        raise ValueError(f"{channel}: serial {oldest} does not follow {before}")
                    bucket = self._bucket(store, block.retention, oldest >> SERIAL_SHIFT, make_buckets)
                    retention, family = bucket.retention, bucket.family
                    first, end = bucket.first_serial, bucket.end_serial
                here = entries
                if entries[-1][0] >= end:
                    here = entries[: bisect_left(entries, (end,))]
                for key, value in encode(channel, block.series, here, before):
                    rows.append((family, key, value))
                if (known := bucket.channels) is not None and channel not in known:
                    placed.append((bucket, channel))
                before = here[-1][0]
                entries = entries[len(here) :]
            last[channel] = before
            if before > newest:
                newest = before
        rows.append(head_row(newest))
        return rows, placed, newest

    def _bucket(self, store: Store, retention: str, at_ms: int, make: bool) -> Bucket:
        bucket = self._table.find(retention, at_ms)
        if bucket is None and not make:
            raise _NoBucketError
        if bucket is None:
            with self._building:
                bucket = self._table.find(retention, at_ms) or self._create(store, retention, at_ms)
        return bucket

    def _create(self, store: Store, retention: str, at_ms: int) -> Bucket:
        bucket = self._table.plan(retention, at_ms, self._meta.floors.get(retention, 0) >> SERIAL_SHIFT)
        store.create(bucket.family)
        self._table.add(bucket)
        self._retentions.add(retention)
        return bucket

    def _take_expired(self, now_ms: int) -> list[str]:
        """Remember who falls silent and raise the floors, durably; only then take the buckets from readers.

        What was read without the lock is written only if nothing has changed meanwhile; else it is left
        for the next time. Rows written early do no harm: an entry that is held comes before one remembered.
        """
        expired, blind = self._table.expired(now_ms), False
        seen, found = self._seen(expired), list[tuple[bytes, bytes]]()
        for bucket in expired:
            limit = min(bucket.end_serial - 1, self._head)
            with self._gate:
                channels = falling_silent(self._store, bucket, self._table) if self._store else None
            if channels is None:
                blind = True
            for chunk in chunks(channels or [], self._silent.chunk):
                if found and not self._remember(found, now_ms, expired, seen):
                    return []
                with self._gate:
                    found = list(newest_entries(self._store, bucket, limit, chunk)) if self._store else []
        with self._appending:
            store = self._store
            if store is None or self._failed is not None or self._seen(expired) != seen:
                return []
            try:
                with self._building:
                    rows = self._silent.rows(store, found, now_ms)
                spent, spent_to = self._silent.spent(now_ms, self._head, blind=blind)
                if not expired and not spent and not self._unsynced:
                    return []
                floors = dict(self._meta.floors)
                for bucket in expired:
                    # Serials beyond the head are still to be given out, also after the clock has stepped back.
                    dropped_to = min(bucket.end_serial - 1, self._head)
                    floors[bucket.retention] = max(floors.get(bucket.retention, 0), dropped_to)
                if expired or spent:
                    rows += [floor_row(*floor) for floor in floors.items()]
                    store.write([*rows, forgotten_row(spent_to)])
                store.sync()
                self._unsynced = False
            except StoreError as error:
                raise self._fail(f"the floor could not be raised: {error}") from error
            self._meta.floors = floors
            with self._building:
                self._silent.remove(spent, spent_to)
                for bucket in expired:
                    self._table.remove(bucket)
            return [*(bucket.family for bucket in expired), *(family.name for family in spent)]

    def _remember(self, found: list[tuple[bytes, bytes]], now_ms: int, expired: list[Bucket], seen: object) -> bool:
        """Write these ahead of the floor; False, if what was read no longer holds."""
        with self._appending:
            store = self._store
            if store is None or self._failed is not None or self._seen(expired) != seen:
                return False
            try:
                with self._building:
                    store.write(self._silent.rows(store, found, now_ms))
                self._unsynced = True
            except StoreError as error:
                raise self._fail(f"who fell silent could not be written: {error}") from error
            return True

    def _seen(self, expired: list[Bucket]) -> tuple[BucketTable, int, int]:
        """As long as this is the same, what was read of expired buckets still holds."""
        may_grow = any(bucket.end_serial > self._head for bucket in expired)  # after the clock has stepped back
        return self._table, self._changes, self._head if may_grow else 0

    def _last_known(self, channel: str) -> tuple[int, bool]:
        """See ``last_serial``; and whether nothing can have followed it unnoticed."""
        held = self.last(channel)
        if held is not None and held.serial > self._meta.base:
            return held.serial, True
        with self._gate:
            silent, store = self._silent, self._reader().store  # after ``held``: it is remembered before it goes
            remembered = silent.find(store, channel)
        series = self._meta.series, self._meta.written_series
        known = max(held.serial if held else 0, remembered[0] if remembered else 0)
        if 0 < known <= self._meta.base:
            # From before a change of classes: a later one, of another class, may have been forgotten earlier.
            known = max(known, silent.forgotten)
        return known, remembered is None or remembered[1] in series

    def _without(self, store: Store, prefix: bytes, serial: int, doomed: frozenset[int]) -> Iterator[Row]:
        """The rows that turn the block with this serial into one without the doomed entries."""
        for bucket in self._table:
            if not bucket.first_serial <= serial < bucket.end_serial:
                continue
            rows = store.rows(bucket.family)
            rows.seek_for_prev(block_key(prefix, serial))
            if not rows.valid() or not rows.key().startswith(prefix):
                check(prefix[:-1].decode("utf-8"), rows)
                continue
            key = rows.key()
            entries = decode(key, rows.value())
            kept = [(entry.serial, entry.previous, entry.record) for entry in entries if entry.serial not in doomed]
            if len(kept) == len(entries):
                continue
            if not kept or kept[0][0] != entries[0].serial:
                yield bucket.family, key, None
            if not kept:
                # An older bucket may have been dropped without a word of this channel, which had this block.
                yield from self._silent.named(store, prefix[:-1], entries[0].previous, entries[0].series)
            if kept:
                channel = prefix[:-1].decode("utf-8")
                yield from ((bucket.family, *row) for row in encode(channel, entries[0].series, kept, 0))

    def _pages(self, channel: str, cursor: int) -> Iterator[list[Stored]]:
        while page := self.read_after(channel, cursor, limit=PAGE_ENTRIES, budget=PAGE_BYTES):
            yield page
            cursor = page[-1].serial

    def _reader(self) -> Reader:
        if self._store is None:
            raise JournalUnavailable(self._failed or "it is closed")
        return Reader(self._store, self._table, self._head)

    def _writable(self) -> Store:
        if self._store is None or self._failed is not None:
            raise JournalUnavailable(self._failed or "it is closed")
        return self._store

    def _fail(self, reason: str) -> JournalUnavailable:
        self._failed = reason
        self._failures += 1
        return JournalUnavailable(reason)

    def _check_room(self) -> None:
        logs = sum(log.stat().st_size for log in self._path.glob("*.log"))
        free = disk_usage(self._path).free
        needed = logs + REOPEN_SPARE_BYTES
        if free < needed:
            raise JournalUnavailable(f"{self._failed}; {free} bytes are free, reopening may need {needed}")


def _bytes_in(directory: Path) -> int:
    total = 0
    for file in directory.iterdir():
        with suppress(FileNotFoundError):  # RocksDB removes what it no longer needs at any time
            total += file.stat().st_size
    return total


def _advice(path: Path, status: str) -> str:
    if "lock" in status.lower() and "LOCK" in status:
        return f"{path} is in use, by another server or still by this one ({status})"
    if status.startswith("Corruption"):
        return (
            f"{path} is damaged and was left untouched ({status}); restore it from a copy, "
            f"or move the directory away to start with an empty journal"
        )
    return f"{path} could not be opened ({status}); check space, permissions and the disk, then start again"
