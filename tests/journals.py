"""Journals for tests, and what goes into them."""

from engine.journal import asking
from engine.journal.entries import after
from engine.journal.port import Block
from engine.journal.rocks import RocksJournal

WINDOW_MS = 120_000
MS = 1 << 16


def journal_at(path, **options):
    return RocksJournal(path, **{"boot_id": "boot-1", **options})


def block(channel, *serials, previous=0, retention="w", series="series00", size=20):
    entries = []
    for serial in serials:
        entries.append((serial, previous, b"%d " % serial + b"x" * size))
        previous = serial
    return Block(channel, retention, series, entries)


def serials(entries):
    return [entry.serial for entry in entries]


def floor(journal, retention):
    """The smallest cursor after which nothing of this class has been dropped."""
    return asking.floor(journal._state, retention)


def read_all(journal, channel, cursor=0):
    return after(journal, channel, cursor, limit=1_000_000, budget=1 << 40)
