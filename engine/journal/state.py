"""The shared state of the journal on RocksDB, and its locks.

    appending    one writer: append, erase, forget, and taking expired buckets off the table
    building     one changer of column families: append only when it must, maintain ahead of it
    gate         reads pass side by side; close and recover wait until none is inside

Code that takes several of them takes them in this order. After a failed write or sync the state of the disk is unknown,
so nothing is written until ``recover`` has reopened the database and looked. Reads continue meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from engine.errors import JournalUnavailable
from engine.journal.buckets import Bucket, BucketTable
from engine.journal.gate import Gate
from engine.journal.meta import Meta, timeline_row
from engine.journal.reading import BlockReader
from engine.journal.silent import Silent
from engine.journal.store import Row, Store, StoreError
from engine.timeline import Timeline
from ext.text.serial import serial_ms


@dataclass(slots=True, eq=False)
class JournalState:
    """Made by ``RocksJournal``; ``open_journal`` fills in the state from disk: store, meta, table, silent, head."""

    path: Path
    window_ms: int
    layout: str
    index_entries: int
    max_silent: int
    open_store: Callable[[Path], Store]
    boot_id: str
    appending: Lock = field(default_factory=Lock)
    building: Lock = field(default_factory=Lock)
    gate: Gate = field(default_factory=Gate)
    store: Store | None = None
    meta: Meta = field(init=False)
    table: BucketTable = field(init=False)
    silent: Silent = field(init=False)
    timeline: Timeline = field(default_factory=Timeline)  # read when first opened; from then on its owner changes it
    timeline_kept: int = 0  # its version on disk
    opened: bool = False
    head: int = 0  # visible to readers up to here: a successful append raises it
    failed: str | None = None
    closed: bool = False
    unsynced: bool = False
    retentions: set[str] = field(default_factory=set)  # appended to in this life: they get buckets ahead of time
    changes: int = 0  # by forget and erase: data read before one is stale

    def writable(self) -> Store:
        """Raises: JournalUnavailable, after a failure too."""
        if self.store is None or self.failed is not None:
            raise self.unavailable()
        return self.store

    def readable(self) -> Store:
        """Inside the gate. Raises: JournalUnavailable."""
        if self.store is None:
            raise self.unavailable()
        return self.store

    def reader(self) -> BlockReader:
        """Inside the gate. Raises: JournalUnavailable."""
        return BlockReader(self.readable(), self.table)

    def timeline_rows(self) -> tuple[list[Row], int]:
        """The rows to write, and the version that they store."""
        version = self.timeline.version  # first: a change in between is written again
        return [] if version == self.timeline_kept else [timeline_row(self.timeline.dump())], version

    def unavailable(self) -> JournalUnavailable:
        return JournalUnavailable(self.failed or "it is closed", unwritten=True)

    def fail(self, reason: str, *, unwritten: bool = False) -> JournalUnavailable:
        """Stop all writing; returns the error to raise. ``unwritten``: nothing of this request has been written."""
        self.failed = reason
        return JournalUnavailable(reason, unwritten=unwritten)

    def note_witness(self) -> None:
        """Write the witness: the files that must be there at the next start. Raises: JournalUnavailable."""
        store = self.store
        if store is None:
            return
        logs = store.logs()  # may take a while, and append must not wait for it
        with self.appending:
            if self.store is not store or self.failed is not None:
                return
            try:
                store.note(self.head, logs, durable=not self.unsynced)
            except StoreError as error:
                raise JournalUnavailable(f"the witness cannot be written: {error}", unwritten=True) from error

    def create_bucket(self, store: Store, retention: str, at_ms: int) -> Bucket:
        """The caller holds ``building``. Raises: StoreError."""
        bucket = self.table.plan(retention, at_ms, serial_ms(self.meta.floors.get(retention, 0)))
        store.create(bucket.family)
        # Synced before any row goes there: if the manifest loses a family at its end, RocksDB skips the family's rows.
        store.note_families()
        self.table.add(bucket)
        self.retentions.add(retention)
        return bucket
