"""Torn or damaged? What a crash leaves never stops a start, whatever users have published; a flipped bit does."""

from __future__ import annotations

import random
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import JournalUnavailable
from engine.journal import wal
from engine.journal.entries import after
from engine.journal.port import Block
from engine.journal.rocks import RocksJournal
from tests.models.wal import batch, log, record

TINY = record(wal.FULL, b"\0")  # eight bytes that are a record
AHEAD = b"".join(record(wal.FULL, batch(sequence, b"x")) for sequence in range(1, 400))


def returning(unit: bytes, state_after: int) -> bytes:
    """``unit`` with four bytes more, behind which a checksum is again in the state in which it was before."""
    for_byte = {entry >> 24: index for index, entry in enumerate(wal._TABLE)}
    state = state_after
    for byte in unit:
        state = wal._TABLE[(state ^ byte) & 0xFF] ^ (state >> 8)
    wanted, backwards = state_after, []
    for _ in range(4):
        index = for_byte[wanted >> 24]
        backwards.append(index)
        wanted = ((wanted ^ wal._TABLE[index]) << 8) & wal.ALL_BITS
    patch = bytearray()
    for index in reversed(backwards):
        patch.append((state ^ index) & 0xFF)
        state = wal._TABLE[index] ^ (state >> 8)
    assert state == state_after
    return unit + bytes(patch)


def after_type(kind: int) -> int:
    return wal._TABLE[(wal.ALL_BITS ^ kind) & 0xFF] ^ (wal.ALL_BITS >> 8)


PERIOD = returning(b"abcd", after_type(wal.MIDDLE))  # of a payload whose checksum is right at every eighth byte
PAYLOADS = {
    "records of one byte": TINY * 9000,
    "records with sequences to come": AHEAD * 3,
    "a whole log": log([batch(n, b"x" * 100) for n in range(1, 200)])[0],
    "a whole log with its blocks": log([batch(n, b"x" * 40_000) for n in range(1, 4)])[0],
    "checksums that return": PERIOD * 9000,
    "checksums that return before records": (PERIOD * 8 + TINY) * 700,
    "zeros": bytes(70_000),
    "types": b"\1" * 70_000,
}
NAMED = pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)


def check_cut(data: bytes, ends: list[int], cut: int) -> None:
    about = wal.examine(data[:cut])
    assert about.problem is None, (cut, about)
    assert about.end is None, "RocksDB knows such a tear"
    whole = sum(end <= cut for end in ends)
    assert about.following in (whole + 1, None if whole == 0 else whole + 1)


@NAMED
def test_a_log_cut_anywhere_is_torn_whatever_was_published(payload: bytes) -> None:
    data, ends = log([batch(1, b"before"), batch(2, b"head" + payload + b"tail"), batch(3, payload[:500])])
    chance = random.Random(len(payload))
    near = {at + by for at in (*ends, *range(0, len(data), wal.BLOCK)) for by in range(-20, 21)}
    cuts = sorted({cut for cut in near if 0 <= cut <= len(data)} | {chance.randrange(len(data)) for _ in range(30)})
    for cut in cuts:
        check_cut(data, ends, cut)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(
        st.sampled_from([0, 1, 100, 5000, 32_700, 32_742, 32_749, 32_750, 32_761, 70_000]), min_size=1, max_size=4
    ),
    content=st.sampled_from(sorted(PAYLOADS)),
    at=st.floats(0, 1),
)
def test_however_long_its_batches_are(sizes: list[int], content: str, at: float) -> None:
    data, ends = log([batch(n, PAYLOADS[content][:size]) for n, size in enumerate(sizes, 1)])
    check_cut(data, ends, round(at * len(data)))
    assert wal.examine(data) == wal.Finding(first=1, following=len(sizes) + 1)


TAILS = {
    "zeros": bytes(100_000),
    "few zeros": bytes(40),
    "an older log": log([batch(n, b"old" * 20) for n in range(1, 900)])[0],
    "noise": random.Random(5).randbytes(50_000),
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
@NAMED
def test_unwritten_bytes_behind_a_tear_are_cut_off(payload: bytes, tail: bytes) -> None:
    first = 1_000
    data, ends = log([batch(first, b"x" * 300), batch(first + 1, payload[:20_000] + b"tail"), batch(first + 2, b"y")])
    chance = random.Random(len(payload) + len(tail))
    for cut in [
        ends[0] + 3,
        ends[0] + 7,
        ends[0] + 20,
        *(chance.randrange(ends[0] + 1, ends[1] - 1) for _ in range(2)),
    ]:
        about = wal.examine(data[:cut] + tail)
        assert about.problem is None, (cut, about)
        rest = (data[:cut] + tail)[: about.end]
        assert wal.examine(rest).following == first + 1
        if about.end is None:
            assert wal.examine(rest).torn in (None, ends[0])


@pytest.mark.parametrize("size", [60, 3_000, 40_000])
@pytest.mark.parametrize("content", ["records of one byte", "a whole log", "types"])
def test_a_flipped_bit_is_never_taken_for_a_tear(size: int, content: str) -> None:
    """Either it is found here, or the walk goes on to the end, and RocksDB finds it by the checksum."""
    data, _ = log([batch(n, PAYLOADS[content][:size]) for n in range(1, 7)])
    chance = random.Random(size)
    starts = [0]
    while starts[-1] < len(data):
        room = wal.BLOCK - starts[-1] % wal.BLOCK
        step = room if room < 7 else 7 + wal.HEAD.unpack_from(data, starts[-1])[1]
        starts.append(starts[-1] + step)
    heads = [start + by for start in starts[:-1] for by in range(19) if start + by < len(data)]
    flips = [(at, bit) for at in heads[-19 * 3 :] for bit in range(8)]
    flips += [(chance.randrange(len(data)), chance.randrange(8)) for _ in range(30)]
    for at, bit in flips:
        if wal.BLOCK - at % wal.BLOCK < 7 and any(
            end - start < 7 for start, end in pairwise(starts) if start <= at < end
        ):
            continue  # padding
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        about = wal.examine(bytes(damaged))
        assert about.problem is not None or (about.torn is None and about.end is None), (at, bit, about)


def test_damage_is_damage_beyond_the_block_in_which_it_is(tmp_path: Path) -> None:
    data, ends = log([batch(n, b"x" * 9_000) for n in range(1, 12)])
    assert len(data) > 3 * wal.BLOCK
    for begin, size in ((ends[0], 4096), (ends[1] + 100, 8192), (ends[0] + 9000, 512)):
        for filling in (bytes(size), random.Random(begin).randbytes(size)):
            damaged = data[:begin] + filling + data[begin + size :]
            about = wal.examine(damaged)
            assert about.problem is not None or (about.torn is None and about.end is None), (begin, about)


def test_a_tear_is_one_in_the_newest_log_with_records_alone(tmp_path: Path) -> None:
    first, ends = log([batch(n, b"x" * 100) for n in range(1, 9)])
    second, _ = log([batch(n, b"x" * 100) for n in range(9, 12)])
    (tmp_path / "000004.log").write_bytes(first[:-1])
    (tmp_path / "000010.log").write_bytes(b"")
    assert wal.inspect(tmp_path) is None
    (tmp_path / "000010.log").write_bytes(bytes(100))
    assert wal.inspect(tmp_path) is None
    (tmp_path / "000010.log").write_bytes(second)
    assert wal.inspect(tmp_path) == f"000004.log: torn at byte {ends[-2]}, and newer logs follow"
    (tmp_path / "000004.log").write_bytes(log([batch(1, b"x" * 40_000)])[0][: wal.BLOCK])
    assert wal.inspect(tmp_path) == "000004.log: torn at byte 32768, and newer logs follow", "between its records"


def crashed(path: Path, records: list[bytes]) -> Path:
    """What kill -9 would leave of a journal with these records."""
    journal = RocksJournal(path / "living")
    at = previous = 0
    for content in records:
        at += 65536
        journal.append([Block("app:room", "w", journal.series, [(at, previous, content)])], synced=True)
        previous = at
    shutil.copytree(path / "living", path / "crashed")
    journal.close()
    return path / "crashed"


@pytest.mark.parametrize("tail", [b"", bytes(5_000), TAILS["noise"]], ids=["cut", "zeros", "noise"])
@pytest.mark.parametrize("payload", list(PAYLOADS.values())[:6], ids=list(PAYLOADS)[:6])
def test_journal_on_a_full_disk_opens_with_everything_stored(tmp_path: Path, payload: bytes, tail: bytes) -> None:
    source = crashed(tmp_path, [b"one", b"two", payload[:60_000]])
    name = max(source.glob("*.log")).name
    data = (source / name).read_bytes()
    begin = data.index(b"two") + 40
    chance = random.Random(len(payload))
    for cut in sorted(chance.randrange(begin + 20, len(data) - 5) for _ in range(2)):
        path = tmp_path / f"torn{cut}"
        shutil.copytree(source, path)
        (path / name).write_bytes(data[:cut] + tail)
        for _ in range(2):  # and what that leaves opens again
            journal = RocksJournal(path)
            found = after(journal, "app:room", 0, limit=9, budget=1 << 30)
            assert [entry.record for entry in found] == [b"one", b"two"]
            journal.close()


def test_last_record_is_not_dropped_for_a_flipped_bit(tmp_path: Path) -> None:
    source = crashed(tmp_path, [b"one", b"two", b"three" * 20])
    name = max(source.glob("*.log")).name
    data = (source / name).read_bytes()
    start = data.index(b"three") - 60
    for at in range(start + 20, len(data), 3):
        path = tmp_path / "flipped"
        shutil.copytree(source, path)
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        (path / name).write_bytes(damaged)
        with pytest.raises(JournalUnavailable, match="damaged and was left untouched") as report:
            RocksJournal(path)
        assert name in str(report.value)
        assert (path / name).read_bytes() == damaged
        shutil.rmtree(path)
