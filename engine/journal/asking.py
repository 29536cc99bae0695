"""What may be asked about a channel while others write: its entries, and whether they are all there.

    held         its entries, in buckets, until retention drops these
    remembered   its last serial, for a day after the drop (engine/journal/silent.py)
    forgotten    only floors are known: nothing of its class beyond them has been dropped

Each read is a snapshot of what was visible when it began, taken inside the gate; a bucket that retention drops in the
middle of it makes it begin again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from engine.journal.buckets import retention_ms
from engine.journal.port import Stored, Window
from engine.journal.reading import BucketGoneError, unreadable
from engine.journal.state import State
from engine.journal.store import MIB, StoreError
from ext.countback import Countback
from ext.playback import Playback
from ext.recall import Recall
from ext.serial import last_serial_before
from ext.wire import EntryEncoder

PAGE_ENTRIES = 4096  # of a waking channel's window, read lazily: what its reader holds at once
PAGE_BYTES = MIB


def read_after(state: State, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
    with state.gate:
        while True:
            try:
                return state.reader().after(channel, cursor, limit=limit, budget=budget)
            except BucketGoneError:
                continue  # dropped meanwhile; the table, taken anew, no longer has it


def play_after(
    state: State,
    channel: str,
    cursor: int,
    encoder: EntryEncoder,
    *,
    until: int,
    budget: int,
    skip_origin: int = 0,
    omit: int = 0,
) -> Playback:
    with state.gate:
        while True:
            reader = state.reader()
            until = min(until, reader.visible)
            playback = Playback(encoder, cursor, until=until, budget=budget, skip_origin=skip_origin, omit=omit)
            try:
                reader.play(channel, playback)
                return playback
            except BucketGoneError:
                continue  # begun anew, for what it has taken may now have a hole behind it


def recall_ids(state: State, channel: str, recall: Recall) -> None:
    with state.gate:
        while True:
            try:
                state.reader().play(channel, recall)
                return
            except BucketGoneError:
                continue  # what it has taken counts; it goes on after that


def read_before(state: State, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
    with state.gate:
        while True:
            try:
                return state.reader().before(channel, cursor, limit=limit, budget=budget)
            except BucketGoneError:
                continue


def count_back(state: State, channel: str, countback: Countback) -> bool:
    with state.gate:
        while True:
            try:
                return state.reader().count_back(channel, countback)
            except BucketGoneError:
                continue  # what it has gone over is newer than what was dropped: it goes on from there


def last(state: State, channel: str) -> Stored | None:
    found = read_before(state, channel, state.head + 1, limit=1, budget=0)
    return found[0] if found else None


def holds(state: State, channel: str, serial: int) -> bool:
    found = read_after(state, channel, serial - 1, limit=1, budget=0)
    return bool(found) and found[0].serial == serial


def floor(state: State, retention: str) -> int:
    retention_ms(retention, state.window_ms)
    return state.meta.floor(retention)


def forgotten_floor(state: State, retention: str) -> int:
    return min(floor(state, retention), state.silent.forgotten)


def last_serial(state: State, channel: str) -> int:
    return _last_known(state, channel)[0]


def continuous(state: State, channel: str, retention: str, cursor: int) -> bool:
    # The last serial first, or an entry appended meanwhile would look like one that is missing; entries
    # before floors, for a bucket leaves the table only after they have risen.
    last, vouches = _last_known(state, channel)
    first = read_after(state, channel, cursor, limit=1, budget=0)
    if first:
        proven = 0 < first[0].previous <= cursor
    else:
        proven = vouches and last <= cursor if last else cursor >= state.silent.forgotten
    return proven or cursor >= floor(state, retention)


def wake(state: State, channels: Sequence[str], since_ms: int) -> Mapping[str, Window]:
    since = last_serial_before(since_ms)
    windows = {}
    for channel in channels:
        last = last_serial(state, channel)  # a look into a few sets and rows, for one without entries
        windows[channel] = Window(last, _pages(state, channel, since) if last else iter(()))
    return windows


def _last_known(state: State, channel: str) -> tuple[int, bool]:
    """See ``last_serial``; and whether nothing can have followed it unnoticed."""
    held = last(state, channel)
    if held is not None and held.serial > state.meta.base:
        return held.serial, True
    with state.gate:
        silent, store = state.silent, state.reader().store  # after ``held``: it is remembered before it goes
        try:
            remembered = silent.find(store, channel)
        except StoreError as error:
            raise unreadable(channel, error) from error
    known = max(held.serial if held else 0, remembered[0] if remembered else 0)
    if 0 < known <= state.meta.base:
        # From before a change of classes: a later one, of another class, may have been forgotten earlier.
        known = max(known, silent.forgotten)
    vouches = remembered is None or remembered[1] in state.meta.synced or remembered[1] in state.meta.written
    return known, vouches


def _pages(state: State, channel: str, cursor: int) -> Iterator[list[Stored]]:
    while page := read_after(state, channel, cursor, limit=PAGE_ENTRIES, budget=PAGE_BYTES):
        yield page
        cursor = page[-1].serial
