"""Appends blocks to the journal: all or nothing, and visible only once they are as durable as requested.
A block that no journal can hold is excluded and refused by itself.

    append     write -> sync -> show              in one call, by a thread that may wait
    begin      write -> sync begins ...           the same in halves, by a thread that may not
    end        ... synced -> show

A written append survives the process, a synced one the machine. ``state.head`` moves last: no reader sees beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.errors import NotStorable
from engine.journal.buckets import Bucket, retention_ms
from engine.journal.meta import head_row
from engine.journal.port import NONE_REFUSED, Block, Refused
from engine.journal.state import JournalState
from engine.journal.store import Row, Store, StoreError
from ext.disk.rows import Rows
from ext.text.serial import serial_ms


class _Written(NamedTuple):
    """The entries written by an append; they are not visible yet."""

    newest: int
    refused: Refused


class _NoBucketError(Exception):
    """A bucket has to be created, which takes a few milliseconds, or waits for a drop under way."""


class Appending:
    """The writing half of ``engine.journal.port.AppendLog``."""

    def __init__(self, state: JournalState) -> None:
        self._state = state
        self._begun: tuple[_Written, bool] | None = None  # with a flag: is it being synced
        self._known_classes: set[str] = set()  # retention classes that have been checked

    def append(self, blocks: Sequence[Block], *, synced: bool) -> Refused:
        """Raises: JournalUnavailable: then it is unknown whether any of it was persisted."""
        with self._state.appending:
            begun = self._write(blocks)
            if synced:
                try:
                    self._open_store().sync()
                except StoreError as error:
                    raise self._state.fail(f"an append failed: {error}") from error
                self._state.unsynced = False
            return self._show(begun)

    def raise_head(self, serial: int) -> None:
        with self._state.appending:
            if serial <= self._state.head:
                return
            try:
                self._state.writable().write([head_row(serial)])
            except StoreError as error:
                raise self._state.fail(f"the head could not be raised: {error}") from error
            self._state.unsynced = True
            self._state.head = serial

    def begin(self, blocks: Sequence[Block], *, synced: bool, wake_fd: int) -> bool:
        if not self._state.appending.acquire(blocking=False):
            return False  # maintenance holds it
        try:
            begun = self._write(blocks, make_buckets=False)
            if synced:
                self._open_store().begin_sync(wake_fd)
        except _NoBucketError:
            self._state.appending.release()
            return False  # left to a thread that may wait
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
        return self._begun is not None and (not self._begun[1] or self._open_store().sync_ended)

    def wait(self) -> None:
        begun = self._begun  # another thread may be taking the outcome
        if begun is not None and begun[1]:
            self._open_store().wait_for_sync()

    def end(self) -> Refused:
        assert self._begun is not None
        begun, synced = self._begun
        try:
            if synced:
                self._open_store().end_sync()
                self._state.unsynced = False
            return self._show(begun)
        except StoreError as error:
            raise self._state.fail(f"an append failed: {error}") from error
        finally:
            self._begun = None
            self._state.appending.release()

    def _open_store(self) -> Store:
        assert self._state.store is not None  # closing it needs the lock held here
        return self._state.store

    def _write(self, blocks: Sequence[Block], *, make_buckets: bool = True) -> _Written:
        """Note entries in buckets only when all are known to be storable: a bucket must have the entries noted for it.

        Raises: _NoBucketError, if one is missing and must not be created; JournalUnavailable, with ``unwritten`` set if
            that is certain.
        """
        store = self._state.writable()

        def find(retention: str, serial: int) -> tuple[Bucket, str, int, int, set[str] | None]:
            bucket = self._bucket(store, retention, serial_ms(serial), make_buckets)
            return bucket, bucket.family, bucket.first_serial, bucket.end_serial, bucket.channels

        # With the first entries after a mark; otherwise their age would be unknown after a crash.
        marks, version = self._state.timeline_rows()
        self._state.table.end_those_full(self._state.head)
        try:
            found = Rows(blocks, self._state.head, find)
            rows: list[Row] = [*found.rows, head_row(found.newest), *marks]
            for bucket, channel in found.placed:  # before the write: a reader must never miss it
                self._state.table.note(bucket, channel)
        except StoreError as error:
            raise self._state.fail(f"an append failed: {error}", unwritten=True) from error
        try:
            store.write(rows)
        except StoreError as error:
            raise self._state.fail(f"an append failed: {error}") from error
        self._state.unsynced, self._state.timeline_kept = True, version
        refused = {channel: NotStorable(why) for channel, why in found.refused.items()} or NONE_REFUSED
        return _Written(found.newest, refused)

    def _show(self, written: _Written) -> Refused:
        self._state.head = written.newest  # from here on readers see the entries
        return written.refused

    def _bucket(self, store: Store, retention: str, at_ms: int, make: bool) -> Bucket:
        if retention not in self._known_classes:
            retention_ms(retention, self._state.window_ms)
            self._known_classes.add(retention)
        bucket = self._state.table.find(retention, at_ms)
        if bucket is None and not make:
            raise _NoBucketError
        if bucket is None:
            with self._state.building:
                bucket = self._state.table.find(retention, at_ms)
                if bucket is None:
                    bucket = self._state.create_bucket(store, retention, at_ms)
        return bucket
