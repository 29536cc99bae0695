"""What a page of history reads from a journal on disk: the page, whatever the channel holds and wherever it is."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import pytest

from engine.journal import reading
from engine.journal.block import decode
from engine.journal.entries import after, before
from engine.journal.port import Block, Stored
from engine.journal.rocks import RocksJournal
from ext.disk.block import MAX_BYTES, MAX_ENTRIES
from ext.text.serial import message_serial_text
from ext.wire.encoder import encode_record
from server.rest.history import PAGE_BYTES, STEP_BYTES
from tests.test_history import NOW, SERIES, History, MessagePage, ids, items, link, parse_query, run

ENTRIES = 60_000


class JournalArchive:
    """A journal, as history asks it; ``read``: entries of each block that was decoded, ``bytes_read``: their size."""

    def __init__(self, journal: RocksJournal, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journal = journal
        self.read: list[int] = []
        self.bytes_read = 0
        monkeypatch.setattr(reading, "decode", self._decode)

    def _decode(self, key: bytes, value: bytes) -> list[Stored]:
        entries = decode(key, value)
        self.read.append(len(entries))
        self.bytes_read += len(value)
        return entries

    def now_ms(self) -> int:
        return NOW + 2 * ENTRIES

    def retained_from(self, app_id: str, channel: str) -> int:
        return 0

    def series_of(self, app_id: str, channel: str, serial: int) -> str:
        return SERIES

    async def continuous(self, app_id: str, channel: str, cursor: int) -> bool:
        return True

    async def read_after(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        return after(self.journal, f"{app_id}:{channel}", cursor, limit=limit, budget=budget)

    async def read_before(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        return before(self.journal, f"{app_id}:{channel}", cursor, limit=limit, budget=budget)


def append(journal: RocksJournal, channel: str, begin: int, count: int, *, together: int, size: int = 10) -> None:
    """One message each, a millisecond apart, ``together`` in an append; named by their milliseconds."""
    previous = 0
    for first in range(0, count, together):
        entries = []
        for n in range(begin + first, begin + min(first + together, count)):
            record = encode_record(f"e{n}", None, None, 0, msgpack.packb([{"data": "." * size}]))
            entries.append(((NOW + n) << 16, previous, record))
            previous = (NOW + n) << 16
        journal.append([Block(f"app:{channel}", "p24", SERIES, entries)], synced=False)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RocksJournal]:
    made = RocksJournal(tmp_path_factory.mktemp("cost") / "journal")
    append(made, "many", 0, ENTRIES, together=5000)
    append(made, "single", ENTRIES, 2000, together=1)
    append(made, "large", ENTRIES + 2000, 300, together=100, size=60_000)
    yield made
    made.close()


def page(archive: JournalArchive, channel: str, params: dict[str, str]) -> MessagePage:
    archive.read.clear()
    archive.bytes_read = 0
    return run(History(archive, "app", channel, 0).page(parse_query(params), params, "messages"))


@pytest.mark.parametrize("limit", [1, 100, 1000])
@pytest.mark.parametrize("place", [0, 1, ENTRIES // 2, ENTRIES - 1])
@pytest.mark.parametrize("direction", ["forwards", "backwards"])
def test_a_page_reads_the_blocks_that_it_is_in_and_no_others(
    journal: RocksJournal, monkeypatch: pytest.MonkeyPatch, limit: int, place: int, direction: str
) -> None:
    archive = JournalArchive(journal, monkeypatch)
    cursor = message_serial_text((NOW + place) << 16, SERIES, 0)
    found = page(archive, "many", {"limit": str(limit), "direction": direction, "cursor": cursor})
    after = range(place + 1, ENTRIES) if direction == "forwards" else range(place - 1, -1, -1)
    assert ids(found) == [f"e{n}:0" for n in after[:limit]]
    # Its own, those at its edges once more for each step of reading, the cursor's, and that of the newest entry.
    steps = 2 + limit // 250
    assert sum(archive.read) <= limit + (2 * steps + 4) * MAX_ENTRIES, archive.read


@pytest.mark.parametrize(
    "params", [{}, {"direction": "forwards"}, {"start": str(NOW + ENTRIES + 1000), "direction": "forwards"}]
)
def test_page_of_single_messages_reads_little_more_than_itself(
    journal: RocksJournal, monkeypatch: pytest.MonkeyPatch, params: dict[str, str]
) -> None:
    archive = JournalArchive(journal, monkeypatch)
    assert len(ids(page(archive, "single", {"limit": "50", **params}))) == 50
    assert sum(archive.read) <= 50 + 6


@pytest.mark.parametrize("direction", ["forwards", "backwards"])
def test_page_of_large_messages_reads_no_more_than_its_limit(
    journal: RocksJournal, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    archive = JournalArchive(journal, monkeypatch)
    found = page(archive, "large", {"limit": "1000", "direction": direction})
    assert PAGE_BYTES <= sum(len(message["data"]) for message in items(found)) <= PAGE_BYTES + 60_000
    assert link(found, "next") is not None
    steps = PAGE_BYTES // STEP_BYTES + 3  # each may decode a block that it takes one entry of
    assert archive.bytes_read <= steps * 2 * MAX_BYTES
