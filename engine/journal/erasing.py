"""Removes entries from the log: all of an app, or those of a refused append that was persisted nevertheless."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.journal.block import block_key, channel_prefix, decode, encode
from engine.journal.reading import check
from engine.journal.state import JournalState
from engine.journal.store import Row, Store, StoreError


def forget(state: JournalState, app_prefix: str) -> None:
    """Drop all entries of an app. Floors stay: a forgotten channel counts as empty, not as having a hole."""
    begin = app_prefix.encode("utf-8")
    if not begin:
        raise ValueError("an empty prefix would drop every app")
    end = begin[:-1] + bytes((begin[-1] + 1,))  # UTF-8 never contains byte 255
    with state.appending, state.building:
        store = state.writable()
        try:
            for bucket in state.table:
                store.delete_range(bucket.family, begin, end)
                state.table.discard(bucket, app_prefix)
            state.silent.forget(store, begin, end)
            store.sync()
            state.changes += 1
        except StoreError as error:
            raise state.fail(f"an app could not be dropped: {error}") from error


def erase(state: JournalState, channel: str, serials: Sequence[int]) -> None:
    prefix, doomed = channel_prefix(channel), frozenset(serials)
    with state.appending:
        store = state.writable()
        try:
            rows = [row for serial in sorted(doomed) for row in _without(state, store, prefix, serial, doomed)]
            if rows:
                store.write(list(dict.fromkeys(rows)))
                store.sync()
            state.changes += 1
        except StoreError as error:
            raise state.fail(f"entries could not be removed: {error}") from error


def _without(state: JournalState, store: Store, prefix: bytes, serial: int, doomed: frozenset[int]) -> Iterator[Row]:
    """The rows that turn the block with this serial into one without the doomed entries."""
    for bucket in state.table:
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
            # An older bucket may have been dropped without remembering this channel, because this one had the block.
            yield from state.silent.named(store, prefix[:-1], entries[0].previous, entries[0].series)
        if kept:
            channel = prefix[:-1].decode("utf-8")
            yield from ((bucket.family, *row) for row in encode(channel, entries[0].series, kept, 0))
