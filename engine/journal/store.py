"""The journal's narrow interface to RocksDB, below which tests make disks fail.

    family     a column family: rows sorted by key, dropped as a whole
    Row        (family, key, value); a value of None deletes

rocksdict raises bare ``Exception`` with RocksDB's status text for every failure. This module turns it into StoreError,
so that no caller has to catch everything."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rocksdict import (
    BlockBasedOptions,
    Cache,
    ColumnFamily,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteBatch,
)

from engine.journal import wal
from engine.journal.boot import read_boot_id
from engine.journal.witness import FilesNote, Witness, logs_in, manifest_in, missing, sizes_of
from ext.disk.filesync import FileSync

META = "default"
MIB = 1024 * 1024

# Memory of all memtables together (a one-time cost); when it is full, the fullest is flushed.
ALL_MEMTABLES_BYTES = 128 * MIB
MEMTABLE_BYTES = 32 * MIB
# Families are many and most are small. RocksDB's own arena block is an eighth of the memtable, which
# a family with a single row would have to pay in full.
ARENA_BLOCK_BYTES = 64 * 1024
# Replayed after a crash at about 100 MB/s; at this size the oldest family is flushed.
WAL_BYTES = 256 * MIB
BLOCK_CACHE_BYTES = 64 * MIB
PAGE_BYTES = 16 * 1024  # values are blocks of many entries: bigger pages than 4 KiB, fewer index rows
OPEN_FILES = 1024
# Tables of a family before they are merged. A family is written for a quarter of a window and then never again. With
# RocksDB's default of four, data written in one second of high load would be rewritten several times in that period. A
# read looks into each table: about 10 us for a page.
TABLES_UNMERGED = 16
TABLES_SLOWDOWN, TABLES_STOP = 48, 64  # when merging falls behind: writes are slowed down, then stopped
LOG_BYTES = 4 * MIB  # of RocksDB's own text log; the same amount of older text is kept beside it
LOG_FILES = 4  # of earlier lives


class StoreError(Exception):
    """RocksDB returned an error; the text is its status."""


class RowIterator(Protocol):
    """An iterator over one family, a snapshot of the moment it was made. ``status`` raises if it ended early."""

    def seek(self, key: bytes) -> None: ...
    def seek_for_prev(self, key: bytes) -> None: ...
    def next(self) -> None: ...
    def prev(self) -> None: ...
    def valid(self) -> bool: ...
    def key(self) -> bytes: ...
    def value(self) -> bytes: ...
    def status(self) -> None: ...


Row = tuple[str, bytes, bytes | None]


class Store(Protocol):
    @property
    def noted(self) -> FilesNote | None:
        """The note of the last life: the files that must be there."""

    def families(self) -> list[str]: ...
    def create(self, family: str) -> None: ...
    def drop(self, family: str) -> None: ...
    def get(self, family: str, key: bytes) -> bytes | None: ...
    def rows(self, family: str) -> RowIterator: ...
    def write(self, rows: Sequence[Row]) -> None: ...
    def delete_range(self, family: str, begin: bytes, end: bytes) -> None: ...
    def sync(self) -> None: ...
    def begin_sync(self, wake_fd: int) -> None: ...
    @property
    def sync_ended(self) -> bool: ...
    def wait_for_sync(self) -> None: ...
    def end_sync(self) -> None: ...
    def logs(self) -> list[Path]: ...
    def note(self, head: int, logs: list[Path], *, durable: bool) -> None: ...
    def note_families(self) -> None: ...
    def trim_log(self) -> None: ...
    def close(self) -> None: ...


class FamilyRows:
    """RocksDB's iterator, with the family it reads. The iterator alone does not keep the family's handle alive, and
    reading on after ``drop`` had freed that was a segmentation fault (tried)."""

    __slots__ = ("_family", "_path", "_rows")

    def __init__(self, family: Rdict, path: Path) -> None:
        self._path = path
        self._family = family
        self._rows = family.iter()

    def __del__(self) -> None:
        with suppress(AttributeError):  # if __init__ failed
            del self._rows  # before the family, regardless of the order of slots

    def seek(self, key: bytes) -> None:
        self._rows.seek(key)

    def seek_for_prev(self, key: bytes) -> None:
        self._rows.seek_for_prev(key)

    def next(self) -> None:
        self._rows.next()

    def prev(self) -> None:
        self._rows.prev()

    def valid(self) -> bool:
        return bool(self._rows.valid())

    def key(self) -> bytes:
        return bytes(self._rows.key())

    def value(self) -> bytes:
        return bytes(self._rows.value())

    def status(self) -> None:
        with _translated(self._path):
            self._rows.status()


class RocksStore:
    """RocksDB in this process."""

    def __init__(self, path: Path) -> None:
        """Open or create.

        Raises: StoreError; nothing is held then, and nothing on disk has been removed, except torn records.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = wal.findings(path)
            self._witness = Witness(path)
            self.noted = self._witness.noted(read_boot_id())
            problems = [f"{log.name}: {about.problem}" for log, about in found if about.problem is not None]
            problem = problems[0] if problems else missing(path, self.noted, found)
            if problem is not None:
                raise StoreError(f"Corruption: {problem}")
            wal.cut_tears(found)
        except OSError as error:
            raise StoreError(_placed(f"IO error: {error}", path)) from error
        self._path = path
        self._options = _options()
        with _translated(self._path):
            names = Rdict.list_cf(str(path), self._options) if (path / "CURRENT").exists() else [META]
            self._db = Rdict(str(path), self._options, dict.fromkeys(names, self._options))
            self._families = {name: self._db.get_column_family(name) for name in names}
        self._handles: dict[str, ColumnFamily] = {}  # of families written to; each keeps the database open
        try:
            self._filesync = FileSync(str(path))
        except OSError as error:
            self._db.close()
            raise StoreError(_placed(f"IO error: {error}", path)) from error

    def families(self) -> list[str]:
        return [name for name in self._families if name != META]

    def create(self, family: str) -> None:
        with _translated(self._path):
            self._families[family] = self._db.create_column_family(family, self._options)

    def drop(self, family: str) -> None:
        """Readers that hold an iterator can read to its end: files and handle live as long as it does."""
        with _translated(self._path):
            self._handles.pop(family, None)
            self._db.drop_column_family(family)
            del self._families[family]

    def get(self, family: str, key: bytes) -> bytes | None:
        with _translated(self._path):
            found: bytes | None = self._families[family].get(key)
            return found

    def rows(self, family: str) -> RowIterator:
        with _translated(self._path):
            return FamilyRows(self._families[family], self._path)

    def write(self, rows: Sequence[Row]) -> None:
        """All or nothing; in the operating system when it returns (survives kill -9).

        Never with sync=True: rocksdict holds the GIL during that fsync, which blocks the whole server. A later ``sync``
        is as durable, and releases it (docs/decisions/0001).
        """
        batch = WriteBatch(raw_mode=True)
        last, handle = "", None
        try:
            for family, key, value in rows:
                if family is not last:  # most rows go to the same family as the one before
                    last, handle = family, self._handle(family)
                if value is None:
                    batch.delete(key, handle)
                else:
                    batch.put(key, value, handle)
            self._db.write(batch)
        except Exception as error:
            raise _translation(error, self._path) from error
        finally:
            handle = None  # it keeps the database open, and a failure's traceback keeps this frame

    def _handle(self, family: str) -> ColumnFamily:
        handle = self._handles.get(family)
        if handle is None:
            handle = self._handles[family] = self._db.get_column_family_handle(family)
        return handle

    def delete_range(self, family: str, begin: bytes, end: bytes) -> None:
        with _translated(self._path):
            self._families[family].delete_range(begin, end)

    def sync(self) -> None:
        """All writes so far are on the disk when this returns."""
        with _translated(self._path):
            self._db.flush_wal(True)

    def begin_sync(self, wake_fd: int) -> None:
        """The same in the background: see ``ext.disk.filesync`` and docs/decisions/0006."""
        try:
            self._filesync.begin(wake_fd)
        except OSError as error:
            raise StoreError(_placed(f"IO error: {error}", self._path)) from error

    @property
    def sync_ended(self) -> bool:
        return self._filesync.ended

    def wait_for_sync(self) -> None:
        self._filesync.wait()

    def end_sync(self) -> None:
        """Raises: StoreError: the writes may not be on the disk."""
        try:
            self._filesync.end()
        except OSError as error:
            raise StoreError(_placed(f"IO error: {error}", self._path)) from error

    def logs(self) -> list[Path]:
        """The current logs."""
        return logs_in(self._path)

    def note(self, head: int, logs: list[Path], *, durable: bool) -> None:
        """Write a note beside the database: the files that must be there at the next start. Call it while nothing is
        being written.

        Args:
            durable: all writes are synced. Raises: StoreError.
        """
        with _translated(self._path):
            sequence = self._db.latest_sequence_number()
            noted = FilesNote(read_boot_id(), *manifest_in(self._path), sizes_of(logs), sequence, head)
            self._witness.note(noted, durable=durable, sync=False)

    def note_families(self) -> None:
        """The same for the families alone, and synced; other writes may run meanwhile. Raises: StoreError."""
        with _translated(self._path):
            number, size = manifest_in(self._path)
            last = self._witness.last or FilesNote(read_boot_id(), number, size, {}, 0, 0)
            noted = replace(last, boot=read_boot_id(), manifest=number, manifest_bytes=size)
            self._witness.note(noted, durable=False, sync=True)

    def trim_log(self) -> None:
        """Keep RocksDB's text log within its bound; the end of the old text moves to LOG.old. Raises: StoreError."""
        log = self._path / "LOG"
        try:
            if log.stat().st_blocks * 512 <= LOG_BYTES:  # the length never shrinks: RocksDB keeps its offset
                return
            with log.open("rb") as file:
                file.seek(-LOG_BYTES, os.SEEK_END)
                (self._path / "LOG.old").write_bytes(file.read(LOG_BYTES))
            os.truncate(log, 0)
        except OSError as error:
            raise StoreError(_placed(f"IO error: {error}", self._path)) from error

    def close(self) -> None:
        """Release every handle even if one cannot flush: the lock must be released, and the log has the rows.

        A handle whose flush fails stays open, and with it the lock, until the last reference to it is gone; so none is
        kept here, nor in a traceback.
        """
        self._filesync.close()
        handles, problem = [*self._families.values(), self._db], ""
        self._families.clear()
        self._handles.clear()
        del self._db
        while handles:
            try:
                handles.pop().close()
            except Exception as error:
                problem = str(error)
        if problem:
            raise StoreError(_placed(problem, self._path))


def _placed(text: str, path: Path) -> str:
    """The text of RocksDB or the system, without the path of the data directory, because it may become public."""
    return text.replace(f"{path}{os.sep}", f"{path.name}{os.sep}").replace(str(path), path.name)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _translation(error, path) from error


def _translation(error: Exception, path: Path) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, KeyError):
        return StoreError(f"no such family: {error}")
    return StoreError(_placed(str(error), path))


def _options() -> Options:
    """One tuning for all families: they are many, small, append-only and soon dropped."""
    pages = BlockBasedOptions()
    pages.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    pages.set_block_size(PAGE_BYTES)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(pages)
    # Most newly flushed data is soon dropped as a whole: only data that stays and is compacted is worth compressing.
    options.set_compression_type(DBCompressionType.lz4())
    options.set_compression_per_level([DBCompressionType.none(), *[DBCompressionType.lz4()] * 6])
    options.set_write_buffer_size(MEMTABLE_BYTES)
    options.set_db_write_buffer_size(ALL_MEMTABLES_BYTES)
    options.set_arena_block_size(ARENA_BLOCK_BYTES)
    options.set_max_total_wal_size(WAL_BYTES)
    options.set_level_zero_file_num_compaction_trigger(TABLES_UNMERGED)
    options.set_level_zero_slowdown_writes_trigger(TABLES_SLOWDOWN)
    options.set_level_zero_stop_writes_trigger(TABLES_STOP)
    options.set_max_open_files(OPEN_FILES)
    options.set_keep_log_file_num(LOG_FILES)
    # RocksDB's own rotation keeps the options of every family ever created in memory, to repeat them in a new file:
    # about 40 KB a family, and one is created every half minute. So ``trim_log`` bounds the file instead.
    options.set_max_log_file_size(0)
    options.set_paranoid_checks(True)
    # A crash leaves a torn tail, which was never acknowledged. A wrong checksum before it is damage and must be
    # reported. RocksDB's default, point in time, silently drops everything after a flipped bit. ``wal.inspect`` runs
    # first, and finds the damage that this mode misses.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    return options
