"""How soon a server is back whose window of message ids is full: python -m bench.restart [--ids 250000 1000000 4000000]

    ready        until it says so
    first ACK    from then on: of a publish to each of the channels, over a connection that is new; the last of them
    repeat       from then on: of one with an id of its own, which may be a repeat and waits for the ids of its channel
    ids          bytes of memory for each, as the windows themselves say; and by how much the process has grown

The window is written as a server under load writes it, in commits of a few messages for each channel, by a process that
ends without closing anything. Then a server is started on it. Results go to bench/results/restart.json."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgpack

from engine.journal.port import Block
from engine.journal.rocks import RocksJournal
from ext.disk.recall import Recall
from ext.log.dedup import DedupWindow
from ext.text.serial import connection_id
from ext.wire.encoder import encode_record
from tests.harness import Server, rss
from tests.wsclient import WsClient

RESULTS = Path(__file__).parent / "results"
CHANNELS = 64
PUBLISHERS = 64  # of each channel
IN_A_COMMIT = 100  # messages of a channel
WINDOW_MS = 120_000
DATA = "0123456789abcdef" * 8


def fill(path: Path, count: int) -> None:
    """A window of so many messages up to now, and then the end, as by ``kill -9``. In a process of its own."""
    journal = RocksJournal(path, window_ms=WINDOW_MS)
    commits = count // CHANNELS // IN_A_COMMIT
    now_ms = time.time_ns() // 1_000_000
    # Some seconds are left for writing it: nothing is to be past the window when the server begins.
    began_ms = now_ms - min(WINDOW_MS // 3, commits)
    journal.maintain(began_ms)
    series, messages = journal.series_for(True), msgpack.packb([{"name": "n", "data": DATA}])
    previous = [0] * CHANNELS
    for commit in range(commits):
        serial = (began_ms + (now_ms - began_ms) * commit // commits) << 16
        blocks = []
        for n in range(CHANNELS):
            entries = []
            for i in range(IN_A_COMMIT):
                serial += 1
                number = commit * IN_A_COMMIT + i
                who = connection_id(1 + n * PUBLISHERS + number % PUBLISHERS)
                record = encode_record(f"{who}:{number // PUBLISHERS}", who, None, 0, messages)
                entries.append((serial, previous[n], record))
                previous[n] = serial
            blocks.append(Block(f"app1:room{n}", "w", series, entries))
        journal.append(blocks, synced=False)
    os._exit(0)


def bytes_per_id(path: Path) -> float:
    """Of the windows of all channels, recalled here."""
    journal, memory, held = RocksJournal(path, window_ms=WINDOW_MS), 0, 0
    for n in range(CHANNELS):
        recall = Recall(DedupWindow(bytes(16), WINDOW_MS), lambda serial: serial >> 16, 0, until=1 << 63)
        recall.begin(1 << 40)
        journal.feed(f"app1:room{n}", recall)
        memory, held = memory + recall.window.memory, held + len(recall.window)
    journal.close()
    return memory / held if held else 0.0


def answered(client: WsClient, began: float, **fields: object) -> float:
    """Seconds until a publish to each channel is answered."""
    for n in range(CHANNELS):
        client.pour(f"room{n}", DATA, **fields)
    left = CHANNELS
    while left:
        answer = client.skip_to(1, 2)
        assert answer["action"] == 1, answer
        left -= answer["count"]
    return time.perf_counter() - began


def measure(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "data" / "journal"
        server = Server(Path(directory))
        server.start()  # it makes its data directory
        server.stop()
        subprocess.run([sys.executable, "-m", "bench.restart", "--fill", str(path), "--ids", str(count)], check=True)
        began = time.perf_counter()
        server.start()
        ready = time.perf_counter()
        with WsClient(server.address) as client:
            first = answered(client, ready)
            before = rss(server.pid)
            repeat = answered(client, ready, id="whose own")
            grown = rss(server.pid) - before
        server.kill()
        return {
            "ids": count,
            "ready_s": ready - began,
            "first_ack_s": first,
            "repeat_s": repeat,
            "bytes_per_id": bytes_per_id(path),
            "process_bytes_per_id": grown / count,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fill", type=Path, help="only write a window of so many ids here, and end")
    parser.add_argument("--ids", type=int, nargs="+", default=[0, 250_000, 1_000_000, 4_000_000])
    given = parser.parse_args()
    if given.fill is not None:
        fill(given.fill, given.ids[0])
    rows = []
    print(f"{'ids':>10} {'ready s':>8} {'first ACK s':>12} {'repeat s':>9} {'B per id':>9} {'process B per id':>17}")
    for count in given.ids:
        row = measure(max(count, CHANNELS * IN_A_COMMIT))
        rows.append(row)
        print(
            f"{row['ids']:>10,} {row['ready_s']:>8.2f} {row['first_ack_s']:>12.3f} {row['repeat_s']:>9.2f}"
            f" {row['bytes_per_id']:>9.2f} {row['process_bytes_per_id']:>17.1f}",
            flush=True,
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "restart.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
