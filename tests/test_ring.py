"""The ring and its streams: what was appended is read, once, in order, or its loss is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.log.ring import EPHEMERAL, Evicted, Ring
from ext.log.stream import Stream
from tests.models.ring import ModelRing, Taken

ENTRY = st.tuples(
    st.integers(1, 1 << 20),  # how much the serial grows
    st.integers(0, 60),  # size
    st.integers(0, 3),  # origin
    st.booleans(),  # ephemeral
    st.integers(2, 5000),  # frame's length
)


def taken(serial: int, step: tuple[int, int, int, bool, int]) -> Taken:
    _, size, origin, ephemeral, length = step
    frame = (b"%020d" % serial)[:length].ljust(length, b".")
    return Taken(serial, f"entry {serial}", size, origin, ephemeral, frame)


def append(ring: Ring, item: Taken) -> None:
    ring.append(item.serial, item.entry, item.size, item.origin, EPHEMERAL if item.ephemeral else 0)
    for stream in ring.streams:
        stream.append(item.frame)


@given(
    steps=st.lists(ENTRY, max_size=80),
    capacity=st.sampled_from([1, 2, 8, 16, 64]),
    max_bytes=st.integers(0, 600),
    data=st.data(),
)
def test_cursor_reads_every_entry_once_in_order_or_is_told(steps, capacity, max_bytes, data):
    ring, model, serial = Ring(capacity, max_bytes), ModelRing(capacity, max_bytes), 0
    cursors = [0]
    for step in steps:
        serial += step[0]
        item = taken(serial, step)
        append(ring, item)
        model.append(item)
        cursors.append(serial)
        if data.draw(st.integers(0, 9)) == 0:
            cursor = data.draw(st.sampled_from(cursors))
            ring.trim(cursor)
            model.trim(cursor)
        ring._check()
        assert (ring.evicted, len(ring)) == (model.evicted, len(model.held))
        cursor, budget = data.draw(st.sampled_from(cursors)), data.draw(st.integers(0, 200))
        skip = data.draw(st.integers(0, 3))
        expected = model.read_after(cursor, budget, skip)
        if expected is None:
            with pytest.raises(Evicted) as told:
                ring.read_after(cursor, budget=budget, skip_origin=skip)
            assert told.value.evicted == model.evicted
        else:
            assert ring.read_after(cursor, budget=budget, skip_origin=skip) == expected
    assert ring.read_before(serial + 1, limit=5) == [t.entry for t in reversed(model.held) if not t.ephemeral][:5]


def test_records_before_the_series_keep_their_own_series():
    asked = []
    lives = SimpleNamespace(series_of=lambda serial: asked.append(serial) or f"life{serial}")
    ring = Ring(8, 1 << 10, 0, "now", None, 2, lives)
    for serial in (1, 2, 3):
        ring.append(serial, b"%d" % serial, 1)
    entries = [(1, "life1", b"1"), (2, "life2", b"2"), (3, "now", b"3")]
    assert ring.read_after(0, budget=100) == (3, entries)
    assert ring.read_before(9, limit=9) == entries[::-1]
    assert asked == [1, 2, 2, 1]


def test_records_of_the_ring_series_are_read_with_it():
    ring = Ring(8, 1 << 10, 0, "series")
    other = (2, "another", b"older")
    ring.append(1, b"one", 3)
    ring.append(2, other, 5)
    ring.append(3, b"three", 5)
    own = [(1, "series", b"one"), other, (3, "series", b"three")]
    assert ring.read_after(0, budget=100) == (3, own)
    assert ring.read_before(4, limit=8) == own[::-1]
    plain = Ring(8, 1 << 10)
    plain.append(1, b"one", 3)
    assert plain.read_after(0, budget=100) == (1, [b"one"])


@given(
    before=st.lists(ENTRY, max_size=20),
    after=st.lists(ENTRY, max_size=80),
    max_bytes=st.integers(100, 3000),
    data=st.data(),
)
def test_stream_reader_gets_every_frame_once_or_is_told(before, after, max_bytes, data):
    """Invariant: whatever the budgets, the pauses and the evictions, a reader's bytes are the frames it should get."""
    ring, model, serial = Ring(64, max_bytes), ModelRing(64, max_bytes), 0
    for step in before:
        serial += step[0]
        item = taken(serial, step)
        append(ring, item)
        model.append(item)
    stream = Stream(ring, None)
    readers = []  # each: place, entries had, skip, quiet_until (as a number of entries), frames got
    for step in after:
        if data.draw(st.integers(0, 3)) == 0:
            cursor = data.draw(st.sampled_from([0, *(t.serial for t in model.taken)]))
            place = stream.place_after(cursor)
            had = sum(t.serial <= cursor for t in model.taken)
            if place is None:
                assert had < model.gone or had < len(before)
            else:
                assert stream.cursor_at(place) in (cursor, model.evicted)
                quiet = data.draw(st.booleans())
                readers.append(
                    [
                        place,
                        had,
                        data.draw(st.integers(0, 3)),
                        stream.head if quiet else 0,
                        len(model.taken) if quiet else 0,
                    ]
                )
        serial += step[0]
        item = taken(serial, step)
        append(ring, item)
        model.append(item)
        ring._check()
        for reader in list(readers):
            if data.draw(st.booleans()):
                continue
            place, had, skip, quiet_place, quiet_number = reader
            expected = model.frames_after(had, skip, quiet_number)
            got = stream.read(place, budget=1 << 30, skip_origin=skip, quiet_until=quiet_place)
            if expected is None:
                assert got is None
                readers.remove(reader)
            else:
                assert got == (stream.head, expected)
                reader[:2] = stream.head, len(model.taken)


@given(steps=st.lists(ENTRY, min_size=1, max_size=40), budget=st.integers(1, 9000))
def test_small_budget_changes_only_the_number_of_reads(steps, budget):
    ring, serial, frames = Ring(64, 1 << 20), 0, []
    stream = Stream(ring, None)
    for step in steps:
        serial += step[0]
        item = taken(serial, step)
        append(ring, item)
        frames.append(item.frame)
    place, got = 0, []
    while place < stream.head:
        place, part = stream.read(place, budget=budget)
        assert part
        assert len(part) == 1 or sum(map(len, part)) <= budget + 5000
        got += part
    assert got == frames


def test_evicted_frames_give_their_memory_back():
    ring = Ring(1 << 10, 64 * 1024)
    stream = Stream(ring, None)
    highest = 0
    for serial in range(1, 20_000):
        ring.append(serial, serial, 300)
        stream.append(b"x" * 500)
        highest = max(highest, stream.allocated)
    assert highest <= 2 * 256 * 1024 + 64 * 1024 * 500 // 300
    assert stream.head - stream.tail <= 64 * 1024 * 500 // 300 + 500


def test_a_serial_that_does_not_grow_is_refused():
    ring = Ring(8, 100)
    ring.append(5, "five", 1)
    with pytest.raises(ValueError, match="does not come after 5"):
        ring.append(5, "again", 1)
    with pytest.raises(ValueError, match="does not come after 9"):
        Ring(8, 100, 9).append(9, "old", 1)
    assert ring.read_after(0, budget=10) == (5, ["five"])


@pytest.mark.parametrize("capacity", [0, 3, 1 << 31])
def test_a_capacity_that_is_no_power_of_two_is_refused(capacity):
    with pytest.raises(ValueError, match="max_entries"):
        Ring(capacity, 1)
