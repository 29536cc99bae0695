"""ext.log.dedup beside a dict per bucket: ids new and known, spread over the whole window; and bytes per id.

The bytes are what stays allocated, ids included where they are kept (they are made anew for each publish):
`python -m bench.test_bench_dedup` prints them."""

import gc
import tracemalloc
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.baselines_dedup import DictWindow
from ext.log.dedup import DedupWindow

Window = DictWindow | DedupWindow

NOW = 1_700_000_000_123
COUNT = 100_000
WINDOW = 120_000


def serials(count: int) -> list[int]:
    return [(NOW + n * WINDOW // count) << 16 | n & 0xFFFF for n in range(count)]


def ids(count: int, base: str = "hZ2kQ9w1Ab") -> list[str]:
    return [f"{base}:{n}:0" for n in range(count)]


def ext_window() -> DedupWindow:
    return DedupWindow(bytes(range(16)))


def filled(window: Window, count: int) -> Window:
    add = window.add_or_find
    for message_id, serial in zip(ids(count), serials(count), strict=True):
        add(message_id, serial, 0, serial >> 16)
    return window


both = pytest.mark.parametrize("make", [DictWindow, ext_window], ids=["baseline", "ext"])


@pytest.mark.benchmark(group="dedup: 100,000 new ids")
@both
def test_new(benchmark: BenchmarkFixture, make: Callable[[], Window]) -> None:
    numbers = serials(COUNT)

    def fresh() -> tuple[tuple[Window, list[str]], dict[str, object]]:
        return (make(), ids(COUNT)), {}  # new strings: as they come from a decoder, not hashed yet

    def add_all(window: Window, texts: list[str]) -> int:
        add = window.add_or_find
        return sum(add(text, serial, 0, serial >> 16) is None for text, serial in zip(texts, numbers, strict=True))

    assert benchmark.pedantic(add_all, setup=fresh, rounds=7) == COUNT  # type: ignore[no-untyped-call]  # untyped there


@pytest.mark.benchmark(group="dedup: 100,000 ids known among 100,000")
@both
def test_known(benchmark: BenchmarkFixture, make: Callable[[], Window]) -> None:
    window, expected = filled(make(), COUNT), [(serial, 0) for serial in serials(COUNT)]

    def fresh() -> tuple[tuple[list[str]], dict[str, object]]:
        return (ids(COUNT),), {}

    def find_all(texts: list[str]) -> list[tuple[int, int] | None]:
        find = window.find
        return [find(text) for text in texts]

    assert benchmark.pedantic(find_all, setup=fresh, rounds=7) == expected  # type: ignore[no-untyped-call]  # untyped there


@pytest.mark.benchmark(group="dedup: 100,000 ids unknown among 100,000")
@both
def test_unknown(benchmark: BenchmarkFixture, make: Callable[[], Window]) -> None:
    window = filled(make(), COUNT)

    def fresh() -> tuple[tuple[list[str]], dict[str, object]]:
        return (ids(COUNT, "another_Id"),), {}

    def find_all(texts: list[str]) -> int:
        find = window.find
        return sum(find(text) is None for text in texts)

    assert benchmark.pedantic(find_all, setup=fresh, rounds=7) == COUNT  # type: ignore[no-untyped-call]  # untyped there


@pytest.mark.benchmark(group="dedup: forgetting 100,000 ids")
@both
def test_expire(benchmark: BenchmarkFixture, make: Callable[[], Window]) -> None:
    def fresh() -> tuple[tuple[Window], dict[str, object]]:
        return (filled(make(), COUNT),), {}

    assert benchmark.pedantic(lambda window: window.expire(NOW + 10 * WINDOW), setup=fresh, rounds=5) == COUNT  # type: ignore[no-untyped-call]  # untyped there


def bytes_per_id(count: int) -> tuple[float, float]:
    """Of the baseline, measured by tracemalloc; of ext, as it says itself (its tables are not Python's memory)."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    window = DictWindow()
    for n in range(count):
        serial = (NOW + n * WINDOW // count) << 16 | n & 0xFFFF
        window.add_or_find(f"hZ2kQ9w1Ab:{n}:0", serial, 0, serial >> 16)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    ours = filled(ext_window(), count)
    assert isinstance(ours, DedupWindow)
    assert window.find(f"hZ2kQ9w1Ab:{count - 1}:0") is not None
    assert len(ours) == count
    return held / count, ours.memory / count


def test_ext_takes_a_fortieth_of_the_baselines_memory() -> None:
    baseline, ext = bytes_per_id(10_000)
    assert ext <= 4
    assert 40 * ext <= baseline


if __name__ == "__main__":
    for size in (1_000, 10_000, 100_000, 1_000_000):
        print("{:>9,} ids: baseline {:5.1f}, ext {:4.1f} bytes per id".format(size, *bytes_per_id(size)))
