"""ext.text.serial beside plain Python: giving out serials, writing and reading their texts.

Inside a frame ext.wire.encoder writes serials in C, without the call and the str that are measured here."""

from types import ModuleType
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import baselines_serial
from ext.text import serial as ext_serial

NOW = 1_700_000_000_123
SERIES = "k3J9s0fA"
SERIALS = [(NOW + n // 3) << 16 | n for n in range(1000)]
TEXTS = [f"{serial >> 16:015d}-{serial & 0xFFFF:05d}@{SERIES}" for serial in SERIALS]

both = pytest.mark.parametrize("room", [baselines_serial, ext_serial], ids=["baseline", "ext"])


@pytest.mark.benchmark(group="serial: 1,000 serials, three in a millisecond")
@pytest.mark.parametrize("make", [baselines_serial.PlainClock, ext_serial.SerialClock], ids=["baseline", "ext"])
def test_next(benchmark: BenchmarkFixture, make: Any) -> None:
    times = [NOW + n // 3 for n in range(1000)]

    def give_out() -> list[int]:
        following = make().next
        return [following(now) for now in times]

    assert benchmark(give_out) == [(NOW + n // 3) << 16 | n % 3 for n in range(1000)]


@pytest.mark.benchmark(group="serial: 1,000 serial texts")
@both
def test_write(benchmark: BenchmarkFixture, room: ModuleType) -> None:
    write = room.serial_text
    assert benchmark(lambda: [write(serial, SERIES) for serial in SERIALS]) == TEXTS


@pytest.mark.benchmark(group="serial: 1,000 message serial texts")
@both
def test_write_message(benchmark: BenchmarkFixture, room: ModuleType) -> None:
    write = room.message_serial_text
    assert benchmark(lambda: [write(serial, SERIES, 7) for serial in SERIALS]) == [text + ":007" for text in TEXTS]


@pytest.mark.benchmark(group="serial: 1,000 serial texts read")
@both
def test_read(benchmark: BenchmarkFixture, room: ModuleType) -> None:
    read = room.parse_serial
    assert benchmark(lambda: [read(text) for text in TEXTS]) == [(serial, SERIES) for serial in SERIALS]
