"""Rings and streams under one budget: it holds, the oldest gives way, and who reads gets all of it or is told."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.log.budget import Budget
from ext.log.ring import Evicted, Ring
from ext.log.stream import Stream
from tests.models.ring import ModelRing
from tests.test_ring import ENTRY, append, taken

LONG = 5_000 << 16  # between serials: so long that no two entries are one piece
PLACE = st.integers(0, 3)


def ring_of(share, entries=64, most=1 << 20):
    return Ring(entries, most, 0, None, share)


def fill(ring, serials, size=1000):
    for serial in serials:
        ring.append(serial, b"x", size)
        for stream in ring.streams:
            stream.append(b"f" * size)
    ring.budget.settle()


@settings(max_examples=50)  # each is hundreds of steps
@given(
    steps=st.lists(st.tuples(PLACE, ENTRY), max_size=120),
    most=st.integers(0, 40_000),
    entries=st.sampled_from([2, 16, 64]),
    data=st.data(),
)
def test_readers_under_a_shared_budget_get_all_or_are_told(steps, most, entries, data):
    """Invariant: whatever gives way, a ring has the newest of what it took, its streams the newest of their frames."""
    budget = Budget(most)
    drive(budget, steps, entries, data)
    gc.collect()
    assert budget.held == budget.frames == 0, "they are gone, and so is what they held"


def drive(budget, steps, entries, data):
    shares = [budget.share(), budget.share()]
    rings = [ring_of(shares[number % 2], entries, 3000) for number in range(4)]
    models = [ModelRing(entries, 3000) for _ in rings]
    readers = []  # each: which ring, stream, place, entries had
    serial = 0
    for at, step in steps:
        ring, model = rings[at], models[at]
        if data.draw(st.integers(0, 4)) == 0:
            readers.append([at, stream := Stream(ring, None), stream.head, len(model.taken)])
        serial += step[0] << 12
        item = taken(serial, step)
        append(ring, item)
        model.append(item)
        budget.settle()
        for each, plain in zip(rings, models, strict=True):
            plain.press(each.evicted)
            each._check()
        assert budget.held == sum(ring._counted() for ring in rings) == sum(share.held for share in shares)
        whole = any(len(ring) for ring in rings) or any(s.allocated for ring in rings for s in ring.streams)
        assert budget.held <= budget.most or not whole, "what can give way has"
        cursor = data.draw(st.sampled_from([0, *(t.serial for t in model.taken)]))
        expected = model.read_after(cursor, 1 << 20, 0)
        if expected is None:
            with pytest.raises(Evicted):
                ring.read_after(cursor, budget=1 << 20)
        else:
            assert ring.read_after(cursor, budget=1 << 20) == expected
        for reader in list(readers):
            where, stream, place, had = reader
            if data.draw(st.booleans()):
                continue
            got = stream.read(place, budget=1 << 30)
            if got is None:
                assert budget.pressed or had < models[where].gone
                readers.remove(reader)
            else:
                assert got == (stream.head, models[where].frames_after(had, 0, 0))
                reader[2:] = stream.head, len(models[where].taken)


def test_smaller_budget_evicts_the_excess():
    budget = Budget(1 << 20)
    ring = ring_of(budget.share())
    fill(ring, [n * LONG for n in range(1, 41)])
    before = budget.held
    budget.limit(before // 2)
    budget.settle()
    assert budget.most == before // 2 >= budget.held > 0
    budget.limit(1 << 20)
    fill(ring, [n * LONG for n in range(41, 61)])
    assert budget.held > before // 2


def test_the_oldest_gives_way_first_whatever_channel_it_is_in():
    budget = Budget(40_000)
    share = budget.share()
    rings = [ring_of(share) for _ in range(3)]
    for n in range(60):
        fill(rings[n % 3], [(n + 1) * LONG])
    held = sum(map(len, rings))
    assert 30 < held < 40
    assert [len(ring) for ring in rings] == [len(range(60 - held, 60)[(at - (60 - held)) % 3 :: 3]) for at in range(3)]
    assert max(ring.evicted for ring in rings) == (60 - held) * LONG


def test_idle_channel_is_emptied_before_a_busy_one():
    budget = Budget(200_000)
    share = budget.share()
    quiet, busy = ring_of(share), ring_of(share, 1024)
    fill(quiet, range(1, 51))
    fill(busy, range(LONG, LONG + 180))
    assert len(quiet) == 0
    assert quiet.evicted == 50
    assert len(busy) > 120


@pytest.mark.parametrize("apps", [2, 5])
def test_largest_app_is_evicted_and_a_small_one_is_not(apps):
    budget = Budget(400_000)
    small, large = [budget.share() for _ in range(apps - 1)], budget.share()
    theirs = [ring_of(share) for share in small]
    for ring in theirs:
        fill(ring, range(1, 41))
    others = [ring_of(large) for _ in range(20)]
    for number, ring in enumerate(others):
        fill(ring, range(LONG * (number + 1), LONG * (number + 1) + 60))
    assert sum(map(len, others)) < 400
    assert all(len(ring) == 40 for ring in theirs)
    assert budget.held <= 400_000


def test_frames_go_before_entries_except_the_newest():
    budget = Budget(1 << 20)
    share = budget.share()
    ring = ring_of(share, 1024, 1 << 30)
    streams = [Stream(ring, None) for _ in range(4)]
    fill(ring, range(1, 401))
    assert len(ring) == 400, "an entry is a fifth of what it takes with its frames"
    assert all(stream.tail > 0 for stream in streams), "whoever has not read yet reads the entries"
    other = ring_of(share, 4096, 1 << 30)
    fill(other, range(1000, 3000))
    assert len(ring) == 0, "then entries, oldest first"
    assert budget.held <= 1 << 20
    fill(ring, [4000])
    assert streams[0].read(streams[0].cursor_at(0) or streams[0].head - 1000, budget=1 << 20) is not None


def test_entries_of_others_do_not_evict_frames_at_the_head():
    budget = Budget(1 << 20)
    share = budget.share()
    canary, flood = ring_of(share), ring_of(share, 1 << 14, 1 << 30)
    stream = Stream(canary, None)
    place = stream.head
    for n in range(1, 200):
        fill(flood, range(n * LONG, n * LONG + 50))
        fill(canary, [n * LONG + 100], 100)
        found = stream.read(place, budget=1 << 20)
        assert found is not None
        place = found[0]
        assert len(found[1]) == 1
    assert budget.pressed > 100


def test_a_burst_leaves_no_tables_behind():
    budget = Budget(1 << 30)
    ring = ring_of(budget.share(), 1 << 16)
    stream = Stream(ring, None)
    before = budget.held
    fill(ring, range(1, 50_000), 1)
    assert budget.held - before > 3 << 20
    ring.trim(50_000)
    assert budget.held - before < 1 << 10
    fill(ring, [60_000], 10)
    ring._check()
    assert stream.read(stream.head - 10, budget=100) == (stream.head, [b"f" * 10])


def test_memory_of_a_deleted_ring_and_its_streams_is_free():
    budget = Budget(1 << 30)
    ring = ring_of(budget.share())
    stream = Stream(ring, None)
    fill(ring, range(1, 100))
    assert budget.held > 10_000
    stream.close()
    assert budget.frames == 0
    del stream, ring
    gc.collect()
    assert budget.held == 0
