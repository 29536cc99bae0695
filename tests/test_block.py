"""Rows of a block, in bytes, beside a plain twin; and whatever is handed in, nothing wrong comes out."""

import gc
import sys
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.journal.port import Stored
from ext.disk.block import MAX_BYTES, MAX_ENTRIES, decode, encode
from tests.models import block as twin

SIZES = st.sampled_from([0, 1, 10, 1000, MAX_BYTES // 3, MAX_BYTES - 1, MAX_BYTES, MAX_BYTES + 1])
NAMES = st.binary(max_size=40).map(lambda name: name.replace(b"\0", b"x"))


@st.composite
def ascending(draw):
    serials = sorted(draw(st.sets(st.integers(1, (1 << 64) - 1), min_size=1, max_size=30)))
    return [(serial, draw(st.integers(0, serial - 1)), draw(st.binary(max_size=60))) for serial in serials]


@given(channel=NAMES, entries=ascending())
def test_the_bytes_are_those_of_the_plain_twin_and_come_back(channel, entries):
    rows = encode(channel, b"Aa345678", entries, 0)
    assert rows == [twin.encode(channel, b"Aa345678", entries)]
    found = decode(*rows[0], Stored)
    assert found == [Stored(serial, previous, "Aa345678", record) for serial, previous, record in entries]
    assert all(type(entry) is Stored for entry in found)


@given(sizes=st.lists(SIZES, min_size=1, max_size=20), filler=st.integers(0, 2 * MAX_ENTRIES))
def test_blocks_are_bounded_as_the_twin_bounds_them(sizes, filler):
    records = [bytes(size) for size in sizes] + [b""] * filler
    entries = [(serial, serial - 1, record) for serial, record in enumerate(records, 1)]
    parts = twin.split(entries, MAX_ENTRIES, MAX_BYTES)
    assert encode(b"a", b"Aa345678", entries, 0) == [twin.encode(b"a", b"Aa345678", part) for part in parts]


@given(junk=st.binary(max_size=200), size=st.integers(0, 1 << 32), fixed=st.booleans())
def test_junk_with_a_valid_checksum_is_read_within_bounds(junk, size, fixed):
    """What a bug wrote, and not a bad disk: the sum is right, and the counts and sizes lie."""
    body = b"Aa345678" + ((1).to_bytes(4, "big") + bytes(16) + (size % (1 << 32)).to_bytes(4, "big") if fixed else b"")
    body += junk
    key = b"a\0" + bytes(8)
    value = b"\1" + crc32(body, crc32(key, 1)).to_bytes(4, "big") + body
    try:
        found = decode(key, value, tuple)
    except ValueError:
        return
    assert sum(len(entry[3]) for entry in found) + 20 * len(found) + 17 == len(value)


@pytest.mark.parametrize(
    ("entries", "error", "match"),
    [
        ([], ValueError, "without entries"),
        ([(5, 0, b"")], ValueError, "does not follow 5"),
        ([(7, 0, b""), (7, 0, b"")], ValueError, "does not follow 7"),
        ([(7, 7, b"")], ValueError, "previous 7"),
        ([(-7, 0, b"")], ValueError, "64 bits"),
        ([(1 << 64, 0, b"")], ValueError, "64 bits"),
        ([(7, 0, "text")], TypeError, "bytes"),
        ([(7, 0)], TypeError, "tuple"),
        ([[7, 0, b""]], TypeError, "tuple"),
        ([("7", 0, b"")], TypeError, "int"),
        ([(serial, 0, b"") for serial in (*range(6, 100), 50)], ValueError, "does not follow 99"),
    ],
)
def test_what_is_no_entry_is_refused(entries, error, match):
    with pytest.raises(error, match=match):
        encode(b"a", b"Aa345678", entries, 5)


def test_names_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="NUL"):
        encode(b"a\0b", b"Aa345678", [(1, 0, b"")], 0)
    with pytest.raises(ValueError, match="8 characters"):
        encode(b"a", b"short", [(1, 0, b"")], 0)
    with pytest.raises(TypeError, match="tuples"):
        decode(b"", b"", list)


def test_nothing_is_kept_of_what_was_read_or_refused():
    record, entries = b"r" * 5000, [(serial, 0, b"r" * 50) for serial in range(1, 100)]
    key, value = encode(b"a", b"Aa345678", [(1, 0, record)], 0)[0]
    many = encode(b"a", b"Aa345678", entries, 0)[0]

    def work():
        for _ in range(200):
            decode(*many, Stored)
            with pytest.raises(ValueError):
                decode(key, value[:-1], Stored)
            with pytest.raises(ValueError):
                encode(b"a", b"Aa345678", [*entries, (5, 0, record)], 0)

    work()
    gc.collect()
    before, references = sys.getallocatedblocks(), sys.getrefcount(record)
    work()
    gc.collect()
    assert sys.getallocatedblocks() - before < 100
    assert sys.getrefcount(record) == references
