"""Drops expired buckets, in an order in which no cursor ever counts as complete when it is not.

    silent channels are remembered -> floors rise, synced -> readers lose the buckets -> these are dropped

Buckets for future entries are created ahead of time, because an append would have to wait for that. Times are steady,
so setting the wall clock does not move them (engine/timeline.py)."""

from __future__ import annotations

from engine.errors import JournalUnavailable
from engine.journal.buckets import Bucket, BucketTable, bucket_length_ms
from engine.journal.meta import clock_row, floor_row, forgotten_row
from engine.journal.silent import chunks, falling_silent, newest_entries
from engine.journal.state import JournalState
from engine.journal.store import StoreError
from ext.text.serial import first_serial, serial_ms


def maintain(state: JournalState, now_ms: int, noted: bytes = b"") -> None:
    """Also syncs written entries, so that a power cut costs that log one second of entries, not all of them."""
    try:
        _note_clock(state, noted)
        with state.building:
            store = state.store
            if store is None or state.failed is not None:
                return
            state.table.end_those_full(state.head)
            if state.table.expired(now_ms, state.head):
                state.silent.prepare(store, now_ms)
            expected = state.timeline.expected(now_ms)
            for retention in sorted(state.retentions):
                if expected is None:
                    break  # serials creep, so the time when a bucket is full is unknown
                ahead = expected + bucket_length_ms(retention, state.window_ms)
                for at_ms in (expected, ahead):
                    if first_serial(at_ms) > state.head and state.table.find(retention, at_ms) is None:
                        state.create_bucket(store, retention, at_ms)
        expired = _take_expired(state, now_ms)
        for family in expired:
            with state.building:  # one at a time: an append may have to create one
                if state.store is store:  # otherwise it was reopened meanwhile, and has them again
                    store.drop(family)
        store.trim_log()
        oldest = min((bucket.start_ms for bucket in state.table), default=serial_ms(state.head))
        state.timeline.prune(min(oldest, state.timeline.older_than(now_ms - state.window_ms)))
    except StoreError as error:
        raise JournalUnavailable(f"maintenance failed: {error}") from error


def _note_clock(state: JournalState, noted: bytes) -> None:
    """Note the state of the clocks for the next life. Not synced: after a power cut the machine has rebooted, and an
    older note is as good."""
    if not noted and state.timeline_kept == state.timeline.version:
        return
    with state.appending:
        if state.store is None or state.failed is not None:
            return
        rows, version = state.timeline_rows()
        try:
            state.store.write([*rows, *([clock_row(noted)] if noted else [])])
        except StoreError as error:
            raise state.fail(f"the clock could not be noted: {error}") from error
        state.timeline_kept = version


def _take_expired(state: JournalState, now_ms: int) -> list[str]:
    """Remember silent channels and raise the floors, durably; only then take the buckets from readers.

    Data read without the lock is written only if nothing has changed meanwhile; otherwise it is left for the next time.
    Rows written early do no harm: a held entry takes precedence over a remembered one.
    """
    head, blind = state.head, False
    expired = state.table.expired(now_ms, head)
    seen, found = _seen(state, expired), list[tuple[bytes, bytes]]()
    if seen[2] not in (0, head):
        return []  # one of them has just grown
    for bucket in expired:
        limit = min(bucket.end_serial - 1, state.head)
        with state.gate:
            channels = falling_silent(state.store, bucket, state.table) if state.store else None
        if channels is None:
            blind = True
        for chunk in chunks(channels or [], state.silent.chunk):
            if found and not _remember(state, found, now_ms, expired, seen):
                return []
            with state.gate:
                found = list(newest_entries(state.store, bucket, limit, chunk)) if state.store else []
    with state.appending:
        store = state.store
        if store is None or state.failed is not None or _seen(state, expired) != seen:
            return []
        try:
            with state.building:
                rows = state.silent.rows(store, found, now_ms)
            spent, spent_to = state.silent.spent(now_ms, state.head, blind=blind)
            if not expired and not spent and not state.unsynced:
                return []
            floors = dict(state.meta.floors)
            for bucket in expired:
                # Serials beyond the head are still to be issued, even after the clock was set back.
                dropped_to = min(bucket.end_serial - 1, state.head)
                floors[bucket.retention] = max(floors.get(bucket.retention, 0), dropped_to)
            if expired or spent:
                rows += [floor_row(*floor) for floor in floors.items()]
                store.write([*rows, forgotten_row(spent_to)])
            store.sync()
            state.unsynced = False
        except StoreError as error:
            raise state.fail(f"the floor could not be raised: {error}") from error
        state.meta.floors = floors
        with state.building:
            state.silent.remove(spent, spent_to)
            for bucket in expired:
                state.table.remove(bucket)
        return [*(bucket.family for bucket in expired), *(family.name for family in spent)]


def _remember(
    state: JournalState, found: list[tuple[bytes, bytes]], now_ms: int, expired: list[Bucket], seen: object
) -> bool:
    """Write these ahead of the floor; False, if the data read before is outdated."""
    with state.appending:
        store = state.store
        if store is None or state.failed is not None or _seen(state, expired) != seen:
            return False
        try:
            with state.building:
                store.write(state.silent.rows(store, found, now_ms))
            state.unsynced = True
        except StoreError as error:
            raise state.fail(f"the silent channels could not be written: {error}") from error
        return True


def _seen(state: JournalState, expired: list[Bucket]) -> tuple[BucketTable, int, int]:
    """While this is unchanged, the data read from expired buckets is current."""
    may_grow = any(bucket.end_serial > state.head for bucket in expired)  # after the clock was set back
    return state.table, state.changes, state.head if may_grow else 0
