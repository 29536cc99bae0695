"""The rows of an append, beside a plain twin; and what can't be stored is refused with its channel's name."""

from __future__ import annotations

import gc
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.journal.port import Block
from ext.disk.block import MAX_BYTES, MAX_ENTRIES
from ext.disk.rows import Rows
from ext.log.common import Common
from ext.log.entry import Entry
from ext.log.home import Home
from ext.log.kept import Kept
from ext.log.sequence import Sequence
from ext.text.serial import SerialClock
from tests.models import block as twin
from tests.staged import stage_at

SERIES = "Aa345678"
WIDTH = 50  # of a bucket, in serials
EVERYTHING = ("bucket", "family", 0, 1 << 64 - 1, None)


class Buckets:
    """Of each class one every WIDTH serials; some channels are known in some of them."""

    def __init__(self, known: dict[int, set[str] | None]) -> None:
        self.known = known
        self.asked: list[tuple[str, int]] = []

    def find(self, retention: str, serial: int) -> tuple[object, str, int, int, set[str] | None]:
        self.asked.append((retention, serial))
        number = serial // WIDTH
        name = f"{retention}-{number}"
        return name, name, number * WIDTH, (number + 1) * WIDTH, self.known.get(number, set())


def plain(blocks: list[Block], buckets: Buckets) -> tuple[list[tuple[str, bytes, bytes]], list[tuple[str, str]]]:
    rows, placed = [], []
    for block in blocks:
        for number in sorted({entry[0] // WIDTH for entry in block.entries}):
            here = [entry for entry in block.entries if entry[0] // WIDTH == number]
            name = f"{block.retention}-{number}"
            for part in twin.split(here, MAX_ENTRIES, MAX_BYTES):
                rows.append((name, *twin.encode(block.channel.encode(), block.series.encode(), part)))
            known = buckets.known.get(number, set())
            if known is not None and block.channel not in known:
                placed.append((name, block.channel))
    return rows, placed


@st.composite
def appends(draw):
    blocks, serial = [], 5
    last: dict[str, int] = {}
    for _ in range(draw(st.integers(1, 6))):
        channel, entries = draw(st.sampled_from(["app:a", "app:b", "app:ü ✓"])), []
        for _ in range(draw(st.integers(1, 5))):
            first_of_a_bucket = WIDTH - serial % WIDTH
            serial += draw(st.sampled_from([1, 1, 3, first_of_a_bucket, WIDTH, 3 * WIDTH]))
            entries.append((serial, last.get(channel, 0), draw(st.binary(max_size=40))))
            last[channel] = serial
        blocks.append(Block(channel, draw(st.sampled_from(["w", "p1"])), SERIES, entries))
    return blocks


def kept(entries):
    """The same, as a log hands it over."""
    log = Home("app:a", SERIES, kept=True)
    log.synced, log.retention, log.last_stored = False, "w", entries[0][1]
    sequence = Sequence(SerialClock(), Common(1 << 20))
    for serial, _, record in entries:
        stage_at(sequence, log, serial, record, None)
    _, [block], synced = sequence.take_pending(Block)
    assert not synced
    assert type(block) is Block
    assert type(block.entries) is Kept
    return block.entries


@given(
    blocks=appends(),
    known=st.dictionaries(
        st.integers(0, 20), st.one_of(st.none(), st.sets(st.sampled_from(["app:a", "app:ü ✓"]))), max_size=4
    ),
    as_kept=st.booleans(),
)
def test_rows_match_the_plain_twin_in_their_buckets(blocks, known, as_kept):
    buckets = Buckets(known)
    wanted, placed = plain(blocks, buckets)
    given_blocks = blocks
    if as_kept:  # entries of one block follow one another, as a log's do
        chained = [all(b[1] == a[0] for a, b in zip(x.entries, x.entries[1:], strict=False)) for x in blocks]
        given_blocks = [
            block._replace(entries=kept(block.entries)) if follow else block
            for block, follow in zip(blocks, chained, strict=True)
        ]
    found = Rows(given_blocks, 5, buckets.find)
    assert (found.rows, found.placed) == (wanted, placed)
    entries = [entry for block in blocks for entry in block.entries]
    assert found.newest == entries[-1][0]


def test_same_bucket_as_the_entry_before_asks_for_none():
    buckets = Buckets({})
    Rows([Block(f"app:{n}", "w", SERIES, [(10 + n, 0, b"")]) for n in range(30)], 5, buckets.find)
    assert buckets.asked == [("w", 10)]


def test_log_entries_are_read_as_tuples_elsewhere():
    entries = kept([(7, 3, b"a"), (8, 7, b"b"), (20, 8, b"c")])
    assert list(entries) == [(7, 3, b"a"), (8, 7, b"b"), (20, 8, b"c")]
    assert (len(entries), entries[0], entries[-1]) == (3, (7, 3, b"a"), (20, 8, b"c"))
    with pytest.raises(IndexError):
        entries[3]
    with pytest.raises(TypeError, match="entries of a log"):
        Kept([(7, 3, b"a")])
    assert list(Kept([Entry(9, b"", 0, 0, 1)])) == [(9, 0, b"")]


@pytest.mark.parametrize(
    ("block", "match"),
    [
        (("app:a", "w", SERIES, []), "app:a: a block without entries"),
        (("app:a", "w", SERIES, [(5, 0, b"")]), "app:a: serial 5 .* does not follow 5"),
        (("app:a", "w", SERIES, [(7, 0, b""), (6, 0, b"")]), "app:a: serial 6 .* does not follow 7"),
        (("app:a", "w", SERIES, [(7, 7, b"")]), "app:a: serial 7 .previous 7"),
        (("app:a", "w", SERIES, [(1 << 64, 0, b"")]), "app:a: serials are of 64 bits"),
        (("app:a", "w", "short", [(7, 0, b"")]), "app:a: a series has 8 characters"),
        (("a\0b", "w", SERIES, [(7, 0, b"")]), "NUL"),
        (("a\ud800", "w", SERIES, [(7, 0, b"")]), "surrogates not allowed"),
        (("app:a", "unknown", SERIES, [(7, 0, b"")]), "unknown"),
        (("app:a", "w", SERIES, [(7, 0, b""), (60, 7, b""), (61, 61, b"")]), "app:a: serial 61"),
    ],
)
def test_unstorable_block_has_no_rows_and_others_have(block, match):
    def find(retention, serial):
        if retention != "w":
            raise ValueError(f"{retention} is no class")
        return ("a bucket", "family", 0, 50, set()) if serial < 50 else ("another", "other family", 50, 1 << 62, set())

    others = [("app:y", "w", SERIES, [(6, 0, b"y")]), ("app:z", "w", SERIES, [(8, 0, b"z")])]
    alone, found = Rows(others, 5, find), Rows([others[0], block, others[1]], 5, find)
    assert (found.rows, found.placed) == (alone.rows, alone.placed)
    assert found.newest == 8
    [(channel, why)] = found.refused.items()
    assert channel == block[0]
    assert re.search(match, why)


@pytest.mark.parametrize(
    ("block", "match"),
    [
        (("app:a", "w", SERIES, [(7, 0, "text")]), "a record is bytes"),
        (("app:a", "w", SERIES), "a block is a tuple"),
    ],
)
def test_what_is_no_block_is_an_error(block, match):
    with pytest.raises(TypeError, match=match):
        Rows([("app:z", "w", SERIES, [(6, 0, b"")]), block], 5, lambda retention, serial: EVERYTHING)


def test_what_the_search_for_a_bucket_raises_is_raised():
    def find(retention, serial):
        raise LookupError("no bucket")

    with pytest.raises(LookupError, match="no bucket"):
        Rows([Block("app:a", "w", SERIES, [(7, 0, b"")])], 5, find)


def test_nothing_is_held_of_what_was_made_into_rows():
    record = b"r" * 5000
    blocks = [Block("app:a", "w", SERIES, [(n, 0, record) for n in range(6, 200)])]

    def work():
        for _ in range(50):
            Rows(blocks, 5, lambda retention, serial: EVERYTHING)
            assert Rows(blocks * 2, 5, lambda retention, serial: EVERYTHING).refused

    work()
    gc.collect()
    before, references = sys.getallocatedblocks(), sys.getrefcount(record)
    work()
    gc.collect()
    assert sys.getallocatedblocks() - before < 100
    assert sys.getrefcount(record) == references
