"""Answers questions about a channel while others write: its entries, and whether they are complete.

    held         its entries, in buckets, until retention drops these
    remembered   its last serial, for a day after the drop (engine/journal/silent.py)
    forgotten    only floors are known: nothing of its class beyond them has been dropped

Each read is a snapshot of the visible entries when it began, taken inside the gate. If retention drops a bucket in the
middle of a read, the read begins again."""

from __future__ import annotations

from engine.journal.buckets import retention_ms
from engine.journal.entries import EntriesAfter, EntriesBack
from engine.journal.port import Stored, Taker
from engine.journal.reading import BucketGoneError, unreadable
from engine.journal.state import JournalState
from engine.journal.store import StoreError


def feed(state: JournalState, channel: str, taker: Taker) -> bool:
    begin = taker.cursor
    with state.gate:
        while True:
            try:
                return state.reader().feed(channel, taker)
            except BucketGoneError:
                if taker.cursor != begin:
                    return True  # going on would leave a hole before the next entries
                # otherwise begin anew: the table, taken again, no longer has the bucket


def feed_back(state: JournalState, channel: str, taker: Taker) -> bool:
    with state.gate:
        while True:
            try:
                return state.reader().feed_back(channel, taker)
            except BucketGoneError:
                continue  # these entries are newer than the dropped ones


def first_after(state: JournalState, channel: str, cursor: int) -> Stored | None:
    """The oldest entry held after the cursor."""
    page = EntriesAfter(cursor, 1, 0, until=state.head)
    feed(state, channel, page)
    return page.entries[0] if page.entries else None


def last(state: JournalState, channel: str) -> Stored | None:
    """The newest entry held."""
    page = EntriesBack(state.head, 1, 0)
    feed_back(state, channel, page)
    return page.entries[0] if page.entries else None


def holds(state: JournalState, channel: str, serial: int) -> bool:
    found = first_after(state, channel, serial - 1)
    return found is not None and found.serial == serial


def floor(state: JournalState, retention: str) -> int:
    retention_ms(retention, state.window_ms)
    return state.meta.floor(retention)


def forgotten_floor(state: JournalState, retention: str) -> int:
    return min(floor(state, retention), state.silent.forgotten)


def last_serial(state: JournalState, channel: str) -> int:
    return _last_known(state, channel)[0]


def continuous(state: JournalState, channel: str, retention: str, cursor: int) -> bool:
    # Read the last serial first: an entry appended meanwhile would otherwise look like a missing one. Read entries
    # before floors: a bucket leaves the table only after the floors have risen.
    last, vouches = _last_known(state, channel)
    first = first_after(state, channel, cursor)
    if first is not None:
        proven = 0 < first.previous <= cursor
    else:
        proven = vouches and last <= cursor if last else cursor >= state.silent.forgotten
    return proven or cursor >= floor(state, retention)


def _last_known(state: JournalState, channel: str) -> tuple[int, bool]:
    """See ``last_serial``; and whether it is certain that no entry followed it."""
    held = last(state, channel)
    if held is not None and held.serial > state.meta.base:
        return held.serial, True
    with state.gate:
        silent, store = state.silent, state.reader().store  # after ``held``: remembering precedes dropping
        try:
            remembered = silent.find(store, channel)
        except StoreError as error:
            raise unreadable(channel, error) from error
    known = max(held.serial if held else 0, remembered[0] if remembered else 0)
    if 0 < known <= state.meta.base:
        # From before a change of classes: a later entry, of another class, may have been forgotten earlier.
        known = max(known, silent.forgotten)
    vouches = remembered is None or remembered[1] in state.meta.synced or remembered[1] in state.meta.written
    return known, vouches
