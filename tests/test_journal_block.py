"""One block: what was written comes back, and any damage is found and named after its channel."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import JournalCorrupted
from engine.journal.block import block_key, channel_prefix, decode, encode

ENTRIES = [(7, 3, b"first"), (9, 7, b""), (12, 9, b"third")]


def test_a_block_comes_back_as_it_was():
    (key, value), *more = encode("app:room", "Aa345678", ENTRIES, 6)
    assert (key, more) == (block_key(channel_prefix("app:room"), 7), [])
    assert [(each.serial, each.previous, each.record) for each in decode(key, value)] == ENTRIES
    assert {each.series for each in decode(key, value)} == {"Aa345678"}


def test_every_flipped_bit_and_every_cut_is_found():
    key, value = encode("app:room", "Aa345678", ENTRIES, 0)[0]
    for bit in range(8 * len(value)):
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(JournalCorrupted, match="app:room"):
            decode(key, bytes(damaged))
    for size in range(len(value)):
        with pytest.raises(JournalCorrupted, match="app:room"):
            decode(key, value[:size])


def test_an_intact_value_under_another_key_is_found():
    with pytest.raises(JournalCorrupted, match="app:other"):
        decode(block_key(channel_prefix("app:other"), 7), encode("app:room", "Aa345678", ENTRIES, 0)[0][1])


@given(names=st.lists(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=8), min_size=2))
def test_keys_of_one_channel_never_begin_like_keys_of_another(names):
    prefixes = {channel_prefix(name) for name in names}
    for one in prefixes:
        assert not any(other != one and other.startswith(one) for other in prefixes)


def test_what_is_refused_names_its_channel():
    with pytest.raises(ValueError, match="NUL"):
        channel_prefix("a\0b")
    with pytest.raises(ValueError, match="app:room: serial 7"):
        encode("app:room", "Aa345678", ENTRIES, 7)
    with pytest.raises(ValueError, match="app:room"):
        encode("app:room", "Ää345678", ENTRIES, 0)
