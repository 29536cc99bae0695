"""Append batches of entries of 200 B, synced, and read a channel of 100,000 of them back."""

from functools import partial

import pytest

from bench.baselines_journal import RowJournal
from engine.journal.entries import after, before
from engine.journal.port import Block
from engine.journal.rocks import RocksJournal

RECORD = b"r" * 200


def read_after(journal, channel, cursor, *, limit, budget):
    read = journal.read_after if isinstance(journal, RowJournal) else partial(after, journal)
    return read(channel, cursor, limit=limit, budget=budget)


MAKE = pytest.mark.parametrize("make", [RowJournal, RocksJournal], ids=["baseline", "engine"])


@pytest.mark.benchmark(group="journal: one synced append of entries of 200 B")
@pytest.mark.parametrize("channels", [1, 64], ids=["1-channel", "64-channels"])
@pytest.mark.parametrize("entries", [1, 10, 100, 1000])
@MAKE
def test_append(benchmark, tmp_path, make, entries, channels):
    journal = make(tmp_path / "journal")
    serial = 1_000_000 << 16

    def batch():
        nonlocal serial
        by_channel = {}
        for number in range(entries):
            serial += 1
            by_channel.setdefault(f"app:channel-{number % channels}", []).append((serial, 0, RECORD))
        return ([Block(name, "w", "series00", found) for name, found in by_channel.items()],), {"synced": True}

    benchmark.pedantic(journal.append, setup=batch, rounds=100, warmup_rounds=5)
    found = read_after(journal, "app:channel-0", 0, limit=10**6, budget=1 << 40)
    # Asserted whether or not it is measured: 105 rounds, or one.
    assert len(found) in (105 * -(-entries // channels), -(-entries // channels), 6 * -(-entries // channels))
    assert found[-1].record == RECORD
    journal.close()


@pytest.mark.benchmark(group="journal: read 100,000 entries of 200 B in pages of 1,000")
@MAKE
def test_read_after(benchmark, tmp_path, make):
    journal = make(tmp_path / "journal")
    for start in range(1, 100_001, 100):
        entries = [(n, n - 1, RECORD) for n in range(start, start + 100)]
        journal.append([Block("app:a", "w", "series00", entries)], synced=False)

    def read():
        cursor = count = 0
        while page := read_after(journal, "app:a", cursor, limit=1000, budget=1 << 20):
            cursor, count = page[-1].serial, count + len(page)
        return cursor, count

    assert benchmark(read) == (100_000, 100_000)
    journal.close()


@pytest.mark.benchmark(group="journal: the newest 10 of a channel of 100,000 entries")
def test_read_before(benchmark, tmp_path):
    journal = RocksJournal(tmp_path / "journal")
    for start in range(1, 100_001, 100):
        entries = [(n, n - 1, RECORD) for n in range(start, start + 100)]
        journal.append([Block("app:a", "w", "series00", entries)], synced=False)
    page = benchmark(before, journal, "app:a", 1 << 60, limit=10, budget=1 << 20)
    assert [entry.serial for entry in page] == list(range(100_000, 99_990, -1))
    journal.close()


@pytest.mark.benchmark(group="journal: wake 1,000 channels that have nothing")
def test_wake(benchmark, tmp_path):
    journal = RocksJournal(tmp_path / "journal")
    journal.append([Block("app:a", "w", "series00", [(1, 0, RECORD)])], synced=True)
    names = [f"app:new-{number}" for number in range(1000)]
    assert set(benchmark(lambda: [journal.last_serial(name) for name in names])) == {0}
    journal.close()
