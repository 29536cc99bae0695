"""Blocks go to the journal: all of an append or nothing, visible only when it is as safe as was asked for.

    append     write -> sync -> show              in one call, by a thread that may wait
    begin      write -> sync begins ...           the same in halves, by one that may not
    end        ... synced -> show

Written means that it survives the process, synced the machine. ``state.head`` moves last: what is beyond it no reader
sees."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from engine.journal.block import encode
from engine.journal.buckets import SERIAL_SHIFT, Bucket, retention_ms
from engine.journal.meta import head_row
from engine.journal.port import Block
from engine.journal.state import State
from engine.journal.store import Row, Store, StoreError


class _Written(NamedTuple):
    """What an append has written; it is not visible yet."""

    newest: int
    entries: int
    size: int


class _NoBucketError(Exception):
    """One has to be made, which takes a few milliseconds, or waits for one that is being dropped."""


class Appending:
    """The writing half of ``engine.journal.port.Journal``. ``appends``, ``entries``, ``bytes``: what has succeeded."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._begun: tuple[_Written, bool] | None = None  # and whether it is being synced
        self._known_classes: set[str] = set()  # retention classes that have been checked
        self.appends = self.entries = self.bytes = 0

    def append(self, blocks: Sequence[Block], *, synced: bool) -> None:
        """Raises: JournalUnavailable (then it is unknown whether any of it was persisted), or ValueError
        for what no journal may be asked to hold; then nothing was."""
        with self._state.appending:
            begun = self._write(blocks)
            if synced:
                try:
                    self._state.writable().sync()
                except StoreError as error:
                    raise self._state.fail(f"an append failed: {error}") from error
                self._state.unsynced = False
            self._show(begun)

    def begin(self, blocks: Sequence[Block], *, synced: bool, wake_fd: int) -> bool:
        if not self._state.appending.acquire(blocking=False):
            return False  # maintenance has it
        try:
            begun = self._write(blocks, make_buckets=False)
            if synced:
                self._state.writable().begin_sync(wake_fd)
        except _NoBucketError:
            self._state.appending.release()
            return False  # for a thread that may wait
        except StoreError as error:
            self._state.appending.release()
            raise self._state.fail(f"an append failed: {error}") from error
        except BaseException:
            self._state.appending.release()
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
                self._state.unsynced = False
            self._show(begun)
        except StoreError as error:
            raise self._state.fail(f"an append failed: {error}") from error
        finally:
            self._begun = None
            self._state.appending.release()

    def _begun_in(self) -> Store:
        assert self._state.store is not None  # whoever closes it needs the lock that ``begin`` has taken
        return self._state.store

    def _write(self, blocks: Sequence[Block], *, make_buckets: bool = True) -> _Written:
        store = self._state.writable()
        for block in blocks:
            if block.retention not in self._known_classes:
                retention_ms(block.retention, self._state.window_ms)
                self._known_classes.add(block.retention)
        try:
            rows, placed, newest = self._rows_of(store, blocks, make_buckets)
            for bucket, channel in placed:  # before the write: a reader must never miss it
                self._state.table.note(bucket, channel)
            store.write(rows)
        except StoreError as error:
            raise self._state.fail(f"an append failed: {error}") from error
        self._state.unsynced = True
        size = sum([len(row[2]) for row in rows if row[2] is not None])
        return _Written(newest, sum([len(block.entries) for block in blocks]), size)

    def _show(self, written: _Written) -> None:
        self._state.head = written.newest  # from here on readers see it
        self.appends += 1
        self.entries += written.entries
        self.bytes += written.size

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
        head = newest = self._state.head
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
        bucket = self._state.table.find(retention, at_ms)
        if bucket is None and not make:
            raise _NoBucketError
        if bucket is None:
            with self._state.building:
                bucket = self._state.table.find(retention, at_ms)
                if bucket is None:
                    bucket = self._state.create_bucket(store, retention, at_ms)
        return bucket
