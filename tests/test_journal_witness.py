"""What is gone of a journal is missed: logs, the end of a MANIFEST, CURRENT. What a crash leaves is not."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import JournalUnavailable
from engine.journal import manifest, store, wal, witness
from engine.journal.entries import after
from engine.journal.port import Block
from engine.journal.rocks import RocksJournal
from tests.harness import Server, history, publish, wait_until

ROOT = Path(__file__).resolve().parent.parent
MS = 1 << 16


class Living:
    """A journal in use, and copies of it as kill -9 would leave it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = RocksJournal(path / "living", window_ms=40_000)
        self.serials: list[int] = []
        self.now = 1_000_000

    def append(self, count: int, size: int = 300) -> None:
        for _ in range(count):
            self.now += 400
            serial = max(self.journal.head() + 1, self.now * MS)
            entry = (serial, self.serials[-1] if self.serials else 0, bytes(size))
            self.journal.append([Block("app:room", "p24", self.journal.series, [entry])], synced=True)
            self.serials.append(serial)

    def maintain(self) -> None:
        self.journal.maintain(self.now)

    def crashed(self, name: str = "crashed") -> Path:
        shutil.copytree(self.path / "living", self.path / name)
        return self.path / name


@pytest.fixture
def living(tmp_path: Path) -> Iterator[Living]:
    one = Living(tmp_path)
    yield one
    one.journal.close()


def opens(path: Path) -> list[int]:
    journal = RocksJournal(path, window_ms=40_000)
    found = [entry.serial for entry in after(journal, "app:room", 0, limit=10**6, budget=1 << 40)]
    journal.close()
    return found


def is_refused(path: Path, says: str) -> None:
    """And left as it is."""
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "LOG"}
    with pytest.raises(JournalUnavailable, match="damaged and was left untouched") as report:
        RocksJournal(path)
    assert says in str(report.value)
    assert "remove" not in str(report.value)
    after = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "LOG"}
    assert {name: content for name, content in after.items() if name in before} == before


def newest(path: Path, pattern: str) -> Path:
    return max(path.glob(pattern), key=lambda file: file.name)


def cut_behind(log: Path, batches: int) -> None:
    """Take the last batches off, to the byte."""
    data = log.read_bytes()
    ends = [at for at in range(len(data)) if wal.intact(data, at)]
    log.write_bytes(data[: ends[-batches]])


LOSSES: dict[str, Callable[[Path], str]] = {}


def loss(function: Callable[[Path], str]) -> Callable[[Path], str]:
    LOSSES[function.__name__.replace("_", " ")] = function
    return function


@loss
def the_log_is_gone(path: Path) -> str:
    log = newest(path, "*.log")
    log.unlink()
    return f"{log.name}: is missing"


@loss
def the_log_is_empty(path: Path) -> str:
    log = newest(path, "*.log")
    log.write_bytes(b"")
    return f"{log.name}: has 0 bytes"


@loss
def the_log_ends_earlier_with_a_whole_record(path: Path) -> str:
    log = newest(path, "*.log")
    cut_behind(log, 5)
    return f"{log.name}: has "


@loss
def current_is_gone(path: Path) -> str:
    (path / "CURRENT").unlink()
    return "CURRENT: is missing"


@loss
def current_and_the_witness_are_gone(path: Path) -> str:
    (path / "CURRENT").unlink()
    (path / "witness").unlink()
    return "CURRENT: is missing"


@loss
def current_is_empty(path: Path) -> str:
    (path / "CURRENT").write_bytes(b"")
    return "CURRENT: is damaged"


@loss
def current_names_an_older_one(path: Path) -> str:
    current = newest(path, "MANIFEST-*")
    older = current.with_name("MANIFEST-000001")
    shutil.copy(current, older)
    (path / "CURRENT").write_text(f"{older.name}\n")
    return "CURRENT: names MANIFEST-000001"


@loss
def the_manifest_is_gone(path: Path) -> str:
    newest(path, "MANIFEST-*").unlink()
    return "is missing, although CURRENT names it"


@pytest.mark.parametrize("damage", LOSSES.values(), ids=LOSSES)
def test_what_is_missing_is_missed_and_nothing_is_touched(living: Living, damage: Callable[[Path], str]) -> None:
    living.append(20)
    living.maintain()
    path = living.crashed()
    assert opens(living.crashed("whole")) == living.serials
    is_refused(path, damage(path))


def test_truncated_or_damaged_manifest_is_refused(living: Living) -> None:
    """Its last edits make the families of the newest messages, which RocksDB drops in silence without them."""
    living.append(1)
    for _ in range(3):
        living.now += 4_000_000  # other buckets
        living.append(2)
    path = living.crashed()
    name = newest(path, "MANIFEST-*").name
    data = (path / name).read_bytes()
    starts = [at for at in range(len(data)) if wal.intact(data, at)]
    assert manifest.examine(data).end == len(data)
    cuts = sorted({*starts[-6:], *(start + 9 for start in starts[-6:]), len(data) - 1})
    flips = [(start + at, bit) for start in starts[-3:] for at in range(9) for bit in range(0, 8, 3)]
    for cut in cuts:
        (path / name).write_bytes(data[:cut])
        is_refused(path, f"{name}: ends at byte")
    for at, bit in flips:
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        (path / name).write_bytes(damaged)
        is_refused(path, name)
    (path / name).write_bytes(data)
    assert opens(path) == living.serials


def test_a_log_that_is_missing_between_others_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MEMTABLE_BYTES", 1 << 16)
    monkeypatch.setattr(store, "ARENA_BLOCK_BYTES", 4096)
    living = Living(tmp_path)
    living.append(400, 5_000)  # a family is full, and the others keep the logs
    path = living.crashed()
    logs = sorted(path.glob("*.log"))
    assert len(logs) > 2
    for witness_too in (False, True):
        for log in logs[1:-1]:
            shutil.copytree(path, tmp_path / "damaged")
            (tmp_path / "damaged" / log.name).unlink()
            if witness_too:
                (tmp_path / "damaged" / "witness").unlink()
            is_refused(tmp_path / "damaged", "is missing")
            shutil.rmtree(tmp_path / "damaged")
    assert opens(path) == living.serials
    living.journal.close()


def test_damaged_witness_slot_is_skipped_for_an_older_one(living: Living) -> None:
    living.append(5)
    living.maintain()
    living.append(5)
    living.maintain()
    for n, content in enumerate((b"", b"noise", bytes(8192))):
        path = living.crashed(f"damaged{n}")
        (path / "witness").write_bytes(content)
        assert opens(path) == living.serials
    path = living.crashed("torn")
    whole = bytearray((path / "witness").read_bytes())
    slots = [int(whole[at : at + 30].partition(b"[")[2].partition(b",")[0]) for at in (0, 4096)]
    at = 4096 * slots.index(max(slots))
    whole[at + 100] ^= 1
    (path / "witness").write_bytes(whole)
    newest(path, "*.log").unlink()
    is_refused(path, "is missing")


NOTED = {"boot": "b", "manifest": 1, "manifest_bytes": 2, "logs": {"000004.log": 3}, "sequence": 4, "head": 5}


@pytest.mark.parametrize(
    ("value", "known"),
    [
        ([1, NOTED, None], True),  # as earlier versions wrote it: the same members, with blanks
        ([1, NOTED, NOTED], True),
        ([1, NOTED | {"boot": 5}, None], False),
        ([1, NOTED | {"logs": {"000004.log": "3"}}, None], False),
        ([1, {"boot": "b"}, None], False),
        ([1, NOTED], False),
        (["1", NOTED, None], False),
        (5, False),
    ],
)
def test_a_slot_with_members_of_another_type_is_passed_over(tmp_path: Path, value: object, known: bool) -> None:
    text = json.dumps(value).encode()
    (tmp_path / witness.NAME).write_bytes(b"%08x%s" % (zlib.crc32(text), text))
    assert witness.Witness(tmp_path).last == (witness.FilesNote(**NOTED) if known else None)


def test_after_a_reboot_only_synced_data_must_be_there(living: Living) -> None:
    living.append(3)
    living.maintain()
    seen = witness.Witness(living.path / "living")
    last = seen.noted(seen.last.boot if seen.last else "")
    assert last is not None
    assert last.head == living.serials[-1]
    entry = (living.serials[-1] + 1, living.serials[-1], b"x")
    living.journal.append([Block("app:room", "p24", living.journal.series_for(False), [entry])], synced=False)
    living.journal._state.note_witness()
    seen = witness.Witness(living.path / "living")
    assert seen.last is not None
    assert seen.last.head == entry[0]
    other = seen.noted("another")
    assert other is not None
    assert other.head == living.serials[-1]
    living.serials.append(entry[0])


WRITER = """
import os, sys, random
from pathlib import Path
from engine.journal import store
store.MEMTABLE_BYTES, store.ALL_MEMTABLES_BYTES, store.WAL_BYTES = 1 << 17, 1 << 19, 1 << 20
from engine.journal.port import Block
from engine.journal.rocks import RocksJournal
journal, chance = RocksJournal(Path(sys.argv[1]), window_ms=4_000), random.Random(int(sys.argv[2]))
last = journal.last_serial("app:room")
now = (journal.head() >> 16) + 1
while True:
    now += chance.choice([1, 20, 700])
    serial = max(journal.head() + 1, now << 16)
    blocks = [Block("app:room", "p24", journal.series, [(serial, last, bytes(chance.choice([9, 900, 9000])))])]
    blocks.append(Block(f"app:c{chance.randrange(9)}", "w", journal.series, [(serial + 1, 0, bytes(500))]))
    journal.append(blocks, synced=chance.random() < 0.5)
    last = serial
    os.write(1, b"%d\\n" % serial)
    if chance.random() < 0.1:
        journal.maintain(now)
"""


def test_what_kill_9_leaves_is_never_taken_for_a_loss(tmp_path: Path) -> None:
    """Families come and go, tables are written, logs begin and end; the process dies at any time."""
    told: list[int] = []
    for life in range(8):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "journal"), str(life)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            told.append(int(writer.stdout.readline()))  # it has opened what the one before has left
            time.sleep(0.05 + life * 0.03)
            writer.send_signal(signal.SIGKILL)
            told += [int(line) for line in writer.stdout.read().splitlines()]
    found = opens(tmp_path / "journal")
    assert found == sorted(found)
    assert set(told) <= set(found), "what was killed may have been stored without being told"


def test_server_refuses_without_its_log_and_starts_with_it(make_server: Callable[..., Server], channel: str) -> None:
    server = make_server()
    for n in range(30):
        publish(server.address, channel, {"name": str(n)})
    journal = server.data / "journal"
    noted = (journal / "witness").read_bytes()
    wait_until(lambda: (journal / "witness").read_bytes() != noted, what="a note")
    server.kill()
    log = newest(journal, "*.log")
    content = log.read_bytes()
    log.unlink()
    with pytest.raises(RuntimeError, match=rf"{log.name}: is missing.*put a copy in its place"):
        server.start()
    log.write_bytes(content)
    server.start()
    assert [message["name"] for message in history(server.address, channel)] == [str(n) for n in range(30)]
