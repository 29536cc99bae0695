"""ext.log.ring and .stream beside plain lists and bisection: entries taken in by a full ring, and read by a cursor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.baselines_ring import PlainRing, PlainStream
from ext.log.ring import Ring
from ext.log.stream import Stream

ENTRIES = 4096  # what a ring holds here: it is full, so that each entry lets go of another one
BATCH = 64
SIZE = 200
STEP = 1 << 16  # between serials: one a millisecond
ENTRY = ("entry", "series00", b"r" * SIZE)
FRAME = b"\x82\x7e" + (SIZE - 4).to_bytes(2, "big") + b"f" * (SIZE - 4)

makers = pytest.mark.parametrize("make", [PlainRing, Ring], ids=["baseline", "ext"])


def filled(make: Callable[[int, int], Any]) -> tuple[Any, int]:
    """A full ring, and its newest serial."""
    ring = make(ENTRIES, 1 << 30)
    for n in range(1, 2 * ENTRIES + 1):
        ring.append(n * STEP, ENTRY, SIZE)
    return ring, 2 * ENTRIES * STEP


@pytest.mark.benchmark(group=f"ring: {BATCH} entries of {SIZE} B appended to a full one")
@makers
def test_append(benchmark: BenchmarkFixture, make: Callable[[int, int], Any]) -> None:
    ring, newest = filled(make)

    def batch() -> None:
        nonlocal newest
        append = ring.append
        for _ in range(BATCH):
            newest += STEP
            append(newest, ENTRY, SIZE)

    benchmark(batch)
    assert ring.evicted == newest - ENTRIES * STEP
    assert ring.held_bytes == ENTRIES * SIZE
    assert ring.read_after(newest - STEP, budget=1) == (newest, [ENTRY])


@pytest.mark.benchmark(group=f"ring: the newest {BATCH} entries read")
@makers
def test_read_the_newest(benchmark: BenchmarkFixture, make: Callable[[int, int], Any]) -> None:
    ring, newest = filled(make)
    found = benchmark(lambda: ring.read_after(newest - BATCH * STEP, budget=1 << 20))
    assert found == (newest, [ENTRY] * BATCH)


@pytest.mark.benchmark(group=f"ring: {BATCH} entries read, bounded by their bytes, from the middle")
@makers
def test_read_a_batch(benchmark: BenchmarkFixture, make: Callable[[int, int], Any]) -> None:
    ring, newest = filled(make)
    cursor = newest - ENTRIES // 2 * STEP
    found = benchmark(lambda: ring.read_after(cursor, budget=BATCH * SIZE))
    assert found == (cursor + BATCH * STEP, [ENTRY] * BATCH)


class ExtStream:
    """A ring with one stream, as a channel has them."""

    def __init__(self) -> None:
        self.ring = Ring(ENTRIES, 1 << 30)
        self.stream = Stream(self.ring, None)

    def append(self, serial: int, frame: bytes) -> None:
        self.ring.append(serial, ENTRY, SIZE)
        self.stream.append(frame)

    def after(self, cursor: int) -> list[bytes]:
        place = self.stream.place_after(cursor)
        assert place is not None
        found = self.stream.read(place, budget=1 << 20)
        assert found is not None
        return found[1]


class BaselineStream:
    """The same of plain Python."""

    def __init__(self) -> None:
        self.ring = PlainRing(ENTRIES, 1 << 30)
        self.stream = PlainStream(ENTRIES)

    def append(self, serial: int, frame: bytes) -> None:
        self.ring.append(serial, ENTRY, SIZE)
        self.stream.append(serial, frame)

    def after(self, cursor: int) -> list[bytes]:
        place = self.stream.place_after(cursor)
        assert place is not None
        return self.stream.read(place)


@pytest.mark.benchmark(group=f"ring: {BATCH} entries and frames appended, each with a place looked up")
@pytest.mark.parametrize("make", [BaselineStream, ExtStream], ids=["baseline", "ext"])
def test_stream(benchmark: BenchmarkFixture, make: Callable[[], Any]) -> None:
    both, newest = make(), 0
    for _ in range(2 * ENTRIES):
        newest += STEP
        both.append(newest, FRAME)

    def batch() -> None:
        nonlocal newest
        append, place_after = both.append, both.stream.place_after
        for _ in range(BATCH):
            newest += STEP
            append(newest, FRAME)
            place_after(newest - BATCH * STEP)

    benchmark(batch)
    assert both.after(newest - BATCH * STEP) == [FRAME] * BATCH
    assert both.stream.place_after(newest - (ENTRIES + 1) * STEP) is None
