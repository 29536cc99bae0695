"""What a crash, a full disk and rotten bytes leave behind: all that was acknowledged, or a report."""

import os
import random
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from engine.errors import JournalCorrupted, JournalUnavailable
from engine.journal import wal
from engine.journal.entries import after
from engine.journal.port import Block
from engine.journal.rocks import RocksJournal

ROOT = Path(__file__).resolve().parent.parent

# Appends to two channels for ever, and says so after each append has returned.
WRITER = """
import os, resource, sys
from pathlib import Path
from engine.errors import JournalUnavailable
from engine.journal.port import Block
from engine.journal.rocks import RocksJournal
path, synced, appends, size = Path(sys.argv[1]), sys.argv[2] == "synced", int(sys.argv[3]), int(sys.argv[4])
journal = RocksJournal(path, window_ms=4_000)
if size:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
last = {name: journal.last_serial(name) for name in "ab"}
for _ in range(appends):
    at = journal.head() + 65536 * 20                # 20 ms of serials: buckets change under way
    blocks = []
    for name in "ab":
        entries = [(at + 1, last[name], b"%d" % (at + 1) * 9), (at + 2, at + 1, b"%d" % (at + 2) * 9)]
        blocks.append(Block(name, "w", journal.series_for(synced), entries))
        last[name], at = at + 2, at + 2
    try:
        journal.append(blocks, synced=synced)
    except JournalUnavailable as error:
        os.write(1, b"refused: %s\\n" % str(error).encode())
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            journal.recover()
            os.write(1, b"recovered\\n")
            for block in blocks:
                doubtful = [serial for serial, _, _ in block.entries if journal.holds(block.channel, serial)]
                journal.erase(block.channel, doubtful)
                last[block.channel] = block.entries[0][1]
        except JournalUnavailable as error:
            os.write(1, b"down: %s\\n" % str(error).encode())
            os._exit(3)
    else:
        os.write(1, b"%d %d\\n" % (last["a"], last["b"]))
os._exit(9)
"""


def start_writer(path, mode="synced", appends=10**9, size=0):
    command = [sys.executable, "-c", WRITER, str(path), mode, str(appends), str(size)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def read_all(journal, channel):
    return after(journal, channel, 0, limit=10**9, budget=1 << 40)


def check_chain(journal):
    """Every entry is what was written, and names the one before it. Returns the serials by channel."""
    found = {}
    for name in "ab":
        entries = read_all(journal, name)
        assert all(entry.record == b"%d" % entry.serial * 9 for entry in entries)
        assert all(two.previous == one.serial for one, two in pairwise(entries))
        assert not entries or entries[0].previous == 0
        found[name] = [entry.serial for entry in entries]
    return found


@pytest.mark.parametrize("mode", ["synced", "written"])
def test_acknowledged_entries_survive_a_kill(tmp_path, mode):
    acknowledged = {"a": set(), "b": set()}
    for life in range(4):
        writer = start_writer(tmp_path / "journal", mode)
        lines = [writer.stdout.readline()]  # it is up
        deadline = time.monotonic() + random.Random(life).random() / 4
        while time.monotonic() < deadline:
            lines.append(writer.stdout.readline())
        writer.kill()
        lines += writer.stdout.read().splitlines(keepends=True)
        writer.wait()
        writer.stdout.close()
        for line in lines:
            assert line.endswith(b"\n")
            for name, serial in zip("ab", line.split(), strict=True):
                acknowledged[name].add(int(serial))
        journal = RocksJournal(tmp_path / "journal", window_ms=4_000)
        found = check_chain(journal)
        assert all(acknowledged[name] <= set(found[name]) for name in "ab")
        assert journal.head() >= max(acknowledged["b"])
        journal.close()


def test_full_disk_refuses_and_recovers_when_there_is_space(tmp_path):
    """The file size limit makes the log's next write fail as a full disk does."""
    writer = start_writer(tmp_path / "journal", "synced", 600, 200_000)
    lines, _ = writer.communicate(timeout=60)
    refused = [line for line in lines.splitlines() if line.startswith(b"refused")]
    assert len(refused) == 1
    assert b"recovered" in lines.splitlines()
    acknowledged = [line.split() for line in lines.splitlines() if line[:1].isdigit()]
    assert len(acknowledged) == 599
    journal = RocksJournal(tmp_path / "journal", window_ms=4_000)
    found = check_chain(journal)
    for at, name in enumerate("ab"):
        assert set(found[name][1::2]) == {int(line[at]) for line in acknowledged}
    journal.close()


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """A small journal whose writer died, with everything in one log of a few records."""
    path = tmp_path_factory.mktemp("crashed") / "journal"
    writer = start_writer(path, "synced", 4)
    writer.communicate(timeout=60)
    assert writer.returncode == 9
    return path


def copy_with_log(source, target, data):
    shutil.copytree(source, target)
    newest_log(target).write_bytes(data)
    return target


def newest_log(path):
    return max(path.glob("*.log"))


def test_a_log_torn_anywhere_opens_with_an_unbroken_prefix(crashed, tmp_path):
    data = newest_log(crashed).read_bytes()
    whole = None
    # The tail in steps of one: the last append's record; before it in bigger ones.
    cuts = [*range(len(data) - 260, len(data) - 200), *range(len(data) - 6, len(data) + 1)]
    counts = []
    for cut in cuts:
        assert wal.inspect_log(data[:cut], newest=True) is None
        path = copy_with_log(crashed, tmp_path / "torn", data[:cut])
        journal = RocksJournal(path, window_ms=4_000)
        found = check_chain(journal)
        counts.append(len(found["a"]))
        assert len(found["a"]) == len(found["b"])  # an append is there whole or not at all
        journal.close()
        shutil.rmtree(path)
        whole = found
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == len(whole["a"]) == 8


def test_every_cut_of_a_log_is_a_tear_to_the_inspector(crashed):
    data = newest_log(crashed).read_bytes()
    assert all(wal.inspect_log(data[:cut], newest=True) is None for cut in range(len(data) + 1))
    assert wal.inspect_log(data + bytes(5000), newest=True) is None
    assert "newer logs follow" in wal.inspect_log(data[:-1], newest=False)


def record_starts(data):
    at, starts = 0, []
    while at < len(data):
        starts.append(at)
        at += 7 + wal.HEAD.unpack_from(data, at)[1]
    return starts


def test_flipped_byte_in_the_log_is_reported(crashed, tmp_path):
    """Among the bytes are all of a record's head: lengths that RocksDB takes for a torn tail, and types
    that make it spin. Only a length of the very last record cannot be told from a tear."""
    data = newest_log(crashed).read_bytes()
    starts = record_starts(data)
    flips = [(at + offset, bit) for at in starts[-3:-1] for offset in range(4, 9) for bit in range(8)]
    flips += [(random.Random(each).randrange(starts[-1]), each % 8) for each in range(25)]
    for at, bit in flips:
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        path = copy_with_log(crashed, tmp_path / "flipped", bytes(damaged))
        with pytest.raises(JournalUnavailable, match="damaged and was left untouched"):
            RocksJournal(path, window_ms=4_000)
        assert newest_log(path).read_bytes() == damaged
        shutil.rmtree(path)


def test_flipped_byte_in_a_table_is_reported(tmp_path):
    journal = RocksJournal(tmp_path / "journal")
    expected = {}
    for number in range(200):
        record = os.urandom(400)
        expected[f"c{number:03d}"] = record
        journal.append([Block(f"c{number:03d}", "w", journal.series, [(number + 1, 0, record)])], synced=False)
    journal.close()
    table = max((tmp_path / "journal").glob("*.sst"), key=lambda file: file.stat().st_size)
    data = table.read_bytes()
    reports = right = 0
    for seed in range(40):
        path = tmp_path / "flipped"
        shutil.copytree(tmp_path / "journal", path)
        damaged = bytearray(data)
        damaged[random.Random(seed).randrange(len(data))] ^= 1 << seed % 8
        (path / table.name).write_bytes(damaged)
        try:
            journal = RocksJournal(path)
        except JournalUnavailable:
            reports += 1
        else:
            for name, record in expected.items():
                try:
                    found = read_all(journal, name)
                except JournalCorrupted as report:
                    assert report.channel == name
                    reports += 1
                else:
                    assert [entry.record for entry in found] == [record]
                    right += 1
            journal.close()
        shutil.rmtree(path)
    assert reports > 40
    assert right > 40  # other channels are unaffected


def test_a_missing_file_is_reported(tmp_path):
    journal = RocksJournal(tmp_path / "journal")
    journal.append([Block("a", "w", journal.series, [(1, 0, b"x")])], synced=True)
    journal.close()
    for file in (tmp_path / "journal").glob("*.sst"):
        file.unlink()
    with pytest.raises(JournalUnavailable, match="sst"):
        RocksJournal(tmp_path / "journal")


def test_the_checksum_is_the_one_of_the_logs(crashed):
    data = newest_log(crashed).read_bytes()
    for at in record_starts(data):
        checksum, length, _ = wal.HEAD.unpack_from(data, at)
        assert wal.record_checksum(data[at + 6 : at + 7 + length]) == checksum


def test_a_log_torn_before_another_with_records_is_a_hole(crashed, tmp_path):
    path = copy_with_log(crashed, tmp_path / "hole", newest_log(crashed).read_bytes()[:-1])
    torn = newest_log(path)
    newer = torn.with_name(f"{int(torn.stem) + 1:06d}.log")
    newer.write_bytes(b"")
    assert wal.inspect(path) is None  # what a full disk leaves
    newer.write_bytes(newest_log(crashed).read_bytes())
    assert wal.inspect(path).startswith(f"{torn.name}: torn at byte")
