"""A block of one entry, of two, of a hundred: written and read."""

import pytest

from bench import baselines_block as plain
from engine.journal.block import block_key, channel_prefix
from engine.journal.port import Stored
from ext.disk import block

CHANNEL, SERIES = "app:channel-17", "series00"


def entries_of(count):
    return [(serial, serial - 1, b"r" * 200) for serial in range(1, count + 1)]


def plain_encode(entries):
    prefix = channel_prefix(CHANNEL)
    rows = []
    for part in plain.split(entries):
        key = block_key(prefix, part[0][0])
        rows.append((key, plain.encode(key, SERIES, part)))
    return rows


def ext_encode(entries):
    return block.encode(CHANNEL.encode(), SERIES.encode(), entries, 0)


def ext_decode(key, value):
    return block.decode(key, value, Stored)


@pytest.mark.benchmark(group="block: encode entries of 200 B")
@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.parametrize("encode", [plain_encode, ext_encode], ids=["baseline", "ext"])
def test_encode(benchmark, encode, count):
    entries = entries_of(count)
    assert benchmark(encode, entries) == plain_encode(entries)


@pytest.mark.benchmark(group="block: decode entries of 200 B")
@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.parametrize("decode", [plain.decode, ext_decode], ids=["baseline", "ext"])
def test_decode(benchmark, decode, count):
    found = benchmark(decode, *plain_encode(entries_of(count))[0])
    assert [(serial, previous, record) for serial, previous, _, record in found] == entries_of(count)
