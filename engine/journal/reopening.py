"""Opens the journal, reopens it after a failure, and closes it.

    open       store -> meta, silent channels -> the first writes, synced -> buckets, and their channels
    recover    close, if there is enough disk space to open again -> open
    close      leave the mark that nothing was lost

Reopening shows whether the disk has a failed append whose outcome is unknown."""

from __future__ import annotations

from pathlib import Path
from shutil import disk_usage

from engine.errors import JournalUnavailable
from engine.journal.buckets import Bucket, BucketTable
from engine.journal.meta import Meta, layout_rows
from engine.journal.reading import channels_of
from engine.journal.silent import PREFIX, Silent
from engine.journal.state import JournalState
from engine.journal.store import META, MIB, Store, StoreError
from engine.journal.witness import NAME

# Reopening writes: a manifest, options, tables with the contents of the logs. With less free space nothing is closed,
# because an open database can at least be read.
REOPEN_SPARE_BYTES = 32 * MIB


def open_journal(state: JournalState, begun: Meta | None = None) -> None:
    """``begun``: metadata of this life of the server, if it has had the journal open before.

    Raises: JournalUnavailable, with RocksDB's text and advice for the operator."""
    store: Store | None = None
    try:
        store = state.open_store(state.path)
        meta = Meta(store, state.boot_id, state.layout, begun)
        silent = {family for family in store.families() if family.startswith(PREFIX)}
        buckets = [Bucket.parse(family) for family in store.families() if family not in silent]
        if state.opened:
            state.timeline_kept = -1  # the one on disk may be older
        elif meta.timeline is not None:
            state.timeline.load(meta.timeline)
            state.timeline_kept = state.timeline.version
        state.silent = Silent(store, silent, meta.forgotten, state.max_silent, state.timeline)
        if store.noted is not None and meta.head < store.noted.head:
            raise StoreError(
                f"Corruption: its newest serial is {meta.head}, but was at least {store.noted.head}: "
                "a log or the end of a log is missing"
            )
        store.write(meta.rows)
        store.sync()
        store.note(meta.head, store.logs(), durable=True)
    except (StoreError, ValueError) as error:
        if store is not None:
            try:
                store.close()
            except StoreError as second:
                error.add_note(str(second))
        raise JournalUnavailable(_advice(Path(state.path.name), str(error))) from error
    state.meta, state.head = meta, meta.head
    state.table = BucketTable(buckets, state.window_ms, state.index_entries, state.timeline)
    for bucket in buckets:
        state.table.adopt(bucket, channels_of(store, bucket.family, state.index_entries - state.table.indexed))
    state.store, state.opened = store, True


def recover(state: JournalState) -> None:
    """Raises: JournalUnavailable; reads continue if nothing had to be closed. Call it again later."""
    with state.appending, state.building:
        if state.closed:
            raise JournalUnavailable("it is closed")
        if state.failed is None and state.store is not None:
            return
        if state.store is not None:
            _check_room(state)
            with state.gate.closed():
                store, state.store = state.store, None
                try:
                    store.close()
                except StoreError as error:
                    state.failed = f"could not flush: {error}"  # the log has the rows that the tables lack
        open_journal(state, state.meta)
        state.failed = None


def relayout(state: JournalState, layout: str) -> None:
    """See ``Journal.relayout``. Raises: JournalUnavailable."""
    with state.appending:
        store, base = state.writable(), state.head
        try:
            store.write(layout_rows(layout, base))
            store.sync()
        except StoreError as error:
            raise state.fail(f"the layout of namespaces could not be written: {error}") from error
        state.layout, state.meta.base = layout, base


def close(state: JournalState) -> None:
    """Raises: JournalUnavailable, if the mark could not be left; the journal is closed in any case."""
    with state.appending, state.building, state.gate.closed():
        store, state.store, state.closed = state.store, None, True
        if store is None:
            return
        try:
            try:
                if state.failed is None:
                    store.write([(META, b"clean", b"1")])
                    store.sync()
            finally:
                store.close()
        except StoreError as error:
            raise JournalUnavailable(f"could not be closed cleanly: {error}") from error


def _check_room(state: JournalState) -> None:
    try:
        logs = sum(log.stat().st_size for log in state.path.glob("*.log"))
        free = disk_usage(state.path).free
    except OSError as error:  # no descriptor is left, or the disk does not respond: a later attempt may work
        told = f"{state.failed}; and {state.path.name} cannot be inspected: {error.strerror}"
        raise JournalUnavailable(told) from error
    needed = logs + REOPEN_SPARE_BYTES
    if free < needed:
        raise JournalUnavailable(f"{state.failed}; {free} bytes are free, reopening may need {needed}")


def _advice(path: Path, status: str) -> str:
    if "lock" in status.lower() and "LOCK" in status:
        return f"{path} is in use, by another server or still by this one ({status})"
    if status.startswith("Corruption"):
        return (
            f"{path} is damaged and was left untouched ({status}); move it elsewhere, and put a copy in its place. "
            f"(A copy that was taken while a server ran lacks later writes, and opens once {path / NAME} is "
            "moved elsewhere. Without any copy the server starts with its keys and without messages)"
        )
    return f"{path} could not be opened ({status}); check space, permissions and the disk, then start again"
