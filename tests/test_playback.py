"""A replay's batches are what the entries' own frames are, cut to size; and damage is never played."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.journal import block
from engine.journal.entries import after
from engine.journal.memory import MemoryJournal
from engine.journal.port import Block
from engine.journal.rocks import RocksJournal
from ext.disk.playback import Playback
from ext.text.serial import connection_id
from ext.wire.encoder import EntryEncoder, encode_record, record_messages, record_origin

SERIES = "k3J9s0fA"
OWN, OTHER = 77, 1 << 59
MESSAGE = b"\x81\xa4data\xa5hello"
LARGEST = (1 << 64) - 1


def record(origin, size=0, count=1):
    who = connection_id(origin) if origin else None
    return encode_record("i" * (1 + size), who, None, 0, bytes([0x90 + count]) + MESSAGE * count)


@st.composite
def logs(draw):
    """Entries, each naming the one before it."""
    serials = sorted(draw(st.sets(st.integers(1, 60), max_size=25)))
    chosen = st.tuples(st.sampled_from([0, OWN, OTHER]), st.integers(0, 40), st.integers(1, 3))
    return [(serial, previous, record(*draw(chosen))) for serial, previous in zip(serials, [0, *serials], strict=False)]


def played(encoder, entries, skip_origin, omit=None):
    """Frame by frame, as a list: what a batch is to be made of; of an entry in ``omit``, without so many messages."""
    return [
        (serial, previous, b"" if skip_origin and record_origin(kept) == skip_origin else
         encoder.frame(serial, SERIES, kept, first=(omit or {}).get(serial, 0)))
        for serial, previous, kept in entries
    ]  # fmt: skip


@given(
    entries=logs(),
    cuts=st.sets(st.integers(1, 24)),
    cursor=st.integers(0, 61),
    until=st.integers(0, 61),
    budget=st.integers(0, 1200),
    skip_origin=st.sampled_from([0, OWN]),
    wire=st.sampled_from([0, 1]),
    begun=st.integers(0, 2),
)
def test_batches_are_the_frames_of_the_entries_in_a_row(entries, cuts, cursor, until, budget, skip_origin, wire, begun):
    encoder = EntryEncoder(wire, "room")
    ends = [0, *sorted(cut for cut in cuts if cut < len(entries)), len(entries)]
    parts = [entries[a:b] for a, b in itertools.pairwise(ends) if b > a]
    rows = [row for part in parts for row in block.encode("app:room", SERIES, part, 0)]
    counts = {serial: record_messages(kept) for serial, _, kept in entries}
    omit = min(begun, counts.get(cursor + 1, 1) - 1)
    first, origins = cursor + 1, {serial: record_origin(kept) for serial, _, kept in entries}
    wanted = [entry for entry in played(encoder, entries, skip_origin, {first: omit}) if cursor < entry[0] <= until]
    while True:
        batch = Playback(encoder, cursor, until=until, budget=budget, skip_origin=skip_origin, omit=omit)
        all(batch.take_block(key, value) for key, value in rows)
        assert batch.entries == len([entry for entry in wanted if entry[0] <= batch.cursor])
        taken, wanted = wanted[: batch.entries], wanted[batch.entries :]
        assert batch.frames() == b"".join(frame for _, _, frame in taken)
        serials = [serial for serial, *_ in taken if not skip_origin or origins[serial] != skip_origin]
        assert batch.messages == sum(counts[serial] - (omit if serial == first else 0) for serial in serials)
        assert len(batch.frames()) <= budget or batch.entries == 1
        if not taken:
            assert not wanted
            assert batch.cursor == cursor
            return
        assert (batch.previous, batch.cursor) == (taken[0][1], taken[-1][0])
        cursor, omit = batch.cursor, 0


def test_a_batch_is_as_full_as_its_budget_allows():
    encoder = EntryEncoder(0, "room")
    frame = len(encoder.frame(1, SERIES, record(0)))
    rows = block.encode("app:room", SERIES, [(serial, serial - 1, record(0)) for serial in range(1, 100)], 0)
    for count in (1, 2, 7):
        batch = Playback(encoder, 0, until=LARGEST, budget=count * frame)
        assert not batch.take_block(*rows[0])
        assert (batch.entries, batch.full) == (count, True)


def test_own_messages_of_a_reader_are_skipped_within_the_budget():
    own = record(OWN, 1000)
    rows = block.encode("app:room", SERIES, [(serial, serial - 1, own) for serial in range(1, 100)], 0)
    batch = Playback(EntryEncoder(0, "room"), 0, until=LARGEST, budget=10_000, skip_origin=OWN)
    assert not batch.take_block(*rows[0])
    assert batch.frames() == b""
    assert batch.cursor == batch.entries == 10_000 // len(own)


@given(data=st.data())
def test_a_flipped_bit_is_never_played(data):
    [(key, value)] = block.encode("app:room", SERIES, [(1, 0, record(OTHER)), (2, 1, record(0))], 0)
    at = data.draw(st.integers(0, 8 * len(value) - 1))
    damaged = bytearray(value)
    damaged[at // 8] ^= 1 << at % 8
    batch = Playback(EntryEncoder(0, "room"), 0, until=LARGEST, budget=10_000)
    with pytest.raises(ValueError, match=r"checksum|version"):
        batch.take_block(key, bytes(damaged))
    assert batch.entries == 0


@pytest.mark.parametrize("skip_origin", [0, OWN])
def test_what_is_no_record_is_refused(skip_origin):
    rows = block.encode("app:room", SERIES, [(1, 0, b"\x95junk")], 0)
    batch = Playback(EntryEncoder(0, "room"), 0, until=LARGEST, budget=10_000, skip_origin=skip_origin)
    with pytest.raises(ValueError, match="malformed"):
        batch.take_block(*rows[0])


def test_a_budget_beyond_any_memory_is_refused():
    with pytest.raises(ValueError, match="budget"):
        Playback(EntryEncoder(0, "room"), 0, until=1, budget=1 << 40)


@pytest.mark.parametrize("classes", [["w"], ["w", "p1"]])
def test_journal_plays_back_across_buckets_and_classes(tmp_path, classes):
    journal = RocksJournal(tmp_path, window_ms=120_000, boot_id="boot-1")
    previous = 0
    for step in range(40):  # a bucket of class w has 30 s, and a step 10 s
        entries = []
        for serial in range((step + 1) * 10_000 << 16, ((step + 1) * 10_000 << 16) + 5):
            entries.append((serial, previous, record(OWN if serial % 3 == 0 else 0)))
            previous = serial
        retention = classes[step % len(classes)]
        journal.append(
            [
                Block("app:room", retention, SERIES, entries),
            ],
            synced=False,
        )
    encoder, until = EntryEncoder(0, "room"), previous - 1
    for skip_origin in (0, OWN):
        cursor, frames = 0, b""
        stored = after(journal, "app:room", 0, limit=1000, budget=1 << 30)
        assert len(stored) == 200
        while True:
            batch = Playback(encoder, cursor, until=until, budget=3000, skip_origin=skip_origin)
            journal.feed("app:room", batch)
            if not batch.entries:
                break
            assert batch.previous == cursor
            cursor, frames = batch.cursor, frames + batch.frames()
        kept = [entry[:2] + entry[3:] for entry in stored if entry.serial <= until]
        assert frames == b"".join(frame for *_, frame in played(encoder, kept, skip_origin))
    journal.close()


def test_a_journal_that_holds_nothing_plays_nothing():
    batch = Playback(EntryEncoder(0, "room"), 5, until=LARGEST, budget=1000)
    assert not MemoryJournal().feed("app:room", batch)
    assert (batch.entries, batch.cursor, batch.frames()) == (0, 5, b"")
