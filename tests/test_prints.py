"""What no journal keeps leaves a fingerprint: of the content, found by serial, for as long as the id counts."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.log.prints import Prints, print_of
from ext.wire.encoder import encode_record
from tests.test_sequencer import T0, awake, partition, publish, stage


def record(
    data: object, *, base: str = "a", who: str | None = None, client: str | None = None, flags: int = 0
) -> bytes:
    return encode_record(base, who, client, flags, msgpack.packb([{"data": data}]))


@given(
    steps=st.lists(st.tuples(st.sampled_from([1, 1, 7, 1 << 16, 1 << 33]), st.integers(0, 3)), max_size=60),
    trims=st.lists(st.integers(0, 60), max_size=3),
)
def test_entry_is_found_by_serial_and_compared_by_content(steps: list[tuple[int, int]], trims: list[int]) -> None:
    prints, held, serial = Prints(), {}, 1
    for step, data in steps:
        serial += step
        prints.add(serial, record(data))
        held[serial] = data
        with pytest.raises(ValueError, match="come after"):
            prints.add(serial, record(data))
    for serial, data in held.items():
        assert prints.matches(serial, record(data, base="other", who="hZ2kQ9w1Ab")) is True
        assert prints.matches(serial, record(data + 1)) is False
        if serial + 1 not in held:
            assert prints.matches(serial + 1, record(data)) is None
        if serial - 1 not in held:
            assert prints.matches(serial - 1, record(data)) is None
    for at in sorted(trims):
        serials = sorted(held)
        if at < len(serials):
            prints.trim(serials[at])
            for later in serials[at + 1 :]:  # of those before, some may stay for a while
                assert prints.matches(later, record(held[later])) is True
    prints.trim(1 << 63)
    assert (len(prints), prints.memory) == (0, 0)
    prints.add(1 << 63, record(1))
    assert prints.matches(1 << 63, record(1)) is True


def test_many_take_eight_bytes_each() -> None:
    prints, one = Prints(), record("x")
    for n in range(100_000):
        prints.add((T0 << 16) + n * 500, one)
    assert len(prints) == 100_000
    assert 8 * 100_000 <= prints.memory <= 8.5 * 100_000
    assert all(prints.matches((T0 << 16) + n * 500, one) for n in range(0, 100_000, 997))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 200])
def test_it_differs_by_every_byte_and_by_all_that_readers_get(size: int) -> None:
    data = b"x" * size
    seen = {print_of(record(data + b"")), print_of(record(data.decode())), print_of(record(data + b"x"))}
    seen |= {print_of(record(data[:n] + b"y" + data[n + 1 :])) for n in range(size)}
    seen |= {print_of(record(data, client="bob")), print_of(record(data, flags=1))}
    assert len(seen) == size + 5
    assert print_of(record(data, base="longer than that", who="hZ2kQ9w1Ab")) == print_of(record(data))


def test_prints_outlast_the_ids_and_go_after_them() -> None:
    sequencer, channel = partition(1000).sequencer, awake()
    for n in range(3):
        stage(sequencer, channel, publish(f"e{n}", ephemeral=True), now=T0 + n)
    stage(sequencer, channel, publish("kept"), now=T0 + 3)
    sequencer.commit(sequencer.take())
    assert channel.prints is not None and len(channel.prints) == 3, "of what the journal has there is none"
    channel.ring.trim(1 << 63)
    now = T0
    while len(channel.dedup):
        again = stage(sequencer, channel, publish("e1", ephemeral=True), now=now)
        assert [outcome[0] for outcome in again.outcomes] == ["accepted"]
        assert stage(sequencer, channel, publish("e1"), now=now).outcomes == [("refused", 40031)]
        now += 10_000
        channel.forget(now, (now - 120_000) << 16, 120_000)
    while channel.prints is not None:
        now += 10_000
        channel.forget(now, (now - 120_000) << 16, 120_000)
    assert now - T0 <= 200_000
