"""One block: what was written comes back, and any damage is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import JournalCorrupted
from engine.journal.block import MAX_BYTES, MAX_ENTRIES, block_key, channel_prefix, decode, encode, split

SERIALS = st.integers(0, (1 << 64) - 1)
ENTRIES = st.lists(st.tuples(SERIALS, SERIALS, st.binary(max_size=40)), min_size=1, max_size=20)


@given(entries=ENTRIES, serial=SERIALS)
def test_a_block_comes_back_as_it_was(entries, serial):
    key = block_key(channel_prefix("app:room"), serial)
    found = decode(key, encode(key, "Aa345678", entries))
    assert [(each.serial, each.previous, each.record) for each in found] == entries
    assert {each.series for each in found} == {"Aa345678"}


def test_every_flipped_bit_and_every_cut_is_found():
    key = block_key(channel_prefix("app:room"), 7)
    value = encode(key, "Aa345678", [(7, 3, b"first"), (9, 7, b""), (12, 9, b"third")])
    for bit in range(8 * len(value)):
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(JournalCorrupted, match="app:room"):
            decode(key, bytes(damaged))
    for size in range(len(value)):
        with pytest.raises(JournalCorrupted, match="app:room"):
            decode(key, value[:size])


def test_an_intact_value_under_another_key_is_found():
    key = block_key(channel_prefix("app:room"), 7)
    with pytest.raises(JournalCorrupted, match="app:other"):
        decode(block_key(channel_prefix("app:other"), 7), encode(key, "Aa345678", [(7, 3, b"first")]))


SIZES = st.sampled_from([0, 10, 1000, MAX_BYTES // 3, MAX_BYTES, MAX_BYTES + 1])


@given(sizes=st.lists(SIZES, min_size=1, max_size=30))
def test_blocks_are_bounded_and_lose_nothing(sizes):
    entries = [(serial, 0, bytes(size)) for serial, size in enumerate(sizes, 1)]
    parts = list(split(entries))
    assert [entry for part in parts for entry in part] == entries
    assert all(len(part) == 1 or sum(len(entry[2]) for entry in part) <= MAX_BYTES for part in parts)


def test_a_block_has_at_most_so_many_entries():
    parts = list(split([(serial, 0, b"") for serial in range(1, 3 * MAX_ENTRIES)]))
    assert [len(part) for part in parts] == [MAX_ENTRIES, MAX_ENTRIES, MAX_ENTRIES - 1]


@given(names=st.lists(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=8), min_size=2))
def test_keys_of_one_channel_never_begin_like_keys_of_another(names):
    prefixes = {channel_prefix(name) for name in names}
    for one in prefixes:
        assert not any(other != one and other.startswith(one) for other in prefixes)


def test_a_channel_with_a_nul_is_refused():
    with pytest.raises(ValueError, match="NUL"):
        channel_prefix("a\0b")
