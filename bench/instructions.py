"""Instructions for each message, counted by valgrind's callgrind: the same figures on every machine, however busy.

    python -m bench.instructions [--only WORD] [--tree DIRECTORY] [--json FILE]

Each row is a hot path without its kernel part, run in one process for N and for 3 N messages; the difference, divided
by 2 N, is what one message takes, start-up left out. ``--tree`` counts another checkout of this repository, which is
built: count both, and compare. Needs valgrind."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 20  # of 64 messages, and three times as many
SERIAL, FIRST = 1_234_567_890, 1_000_000_000  # of the same length in either format
SEED = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


def publish(binary: bool, rounds: int) -> int:
    """Plain publishes over a WebSocket, from payloads to their ACK."""
    from bench.test_bench_ingest import COUNT, Compiled, payloads

    # To number them by hand costs next to nothing; to write each anew would cost more than what is measured.
    mark = SERIAL.to_bytes(4, "big") if binary else b"%d" % SERIAL
    before, _, after = payloads(binary, itertools.count(SERIAL))[0].partition(mark)
    path, numbers = Compiled(), itertools.count(FIRST)
    for _ in range(rounds):
        batch = [n.to_bytes(4, "big") if binary else b"%d" % n for n in itertools.islice(numbers, COUNT)]
        path.work([before + number + after for number in batch], binary)
    return rounds * COUNT


def fan_out(rounds: int) -> int:
    """Frames to one reader each, through the plane, over loopback TCP."""
    import socket

    from bench.test_bench_plane import BATCH, FRAMES, WIRE, Ext

    plane = Ext()
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    accepted.setblocking(False)
    plane.add(accepted, 0)
    for _ in range(rounds):
        plane.fan_out(FRAMES)
        assert len(peer.recv(len(WIRE), socket.MSG_WAITALL)) == len(WIRE)
    plane.close()
    peer.close()
    return rounds * BATCH


def replay(rounds: int) -> int:
    """Entries of the journal, in blocks of 64, to frames."""
    from bench.test_bench_playback import COUNT, RECORD, SERIES, EntryEncoder, block, by_block

    entries = [(serial, serial - 1, RECORD) for serial in range(1, COUNT + 1)]
    rows = [
        row for at in range(0, COUNT, 64) for row in block.encode("app:channel-17", SERIES, entries[at : at + 64], 0)
    ]
    encoder = EntryEncoder(0, "channel-17")
    for _ in range(rounds):
        by_block(encoder, rows, 0)
    return rounds * COUNT


PATHS: dict[str, Callable[[int], int]] = {
    "publish, JSON": lambda rounds: publish(False, rounds),
    "publish, msgpack": lambda rounds: publish(True, rounds),
    "fan-out": fan_out,
    "replay from blocks": replay,
}


def count(path: str, tree: Path) -> float:
    """Instructions for each message of this path, in that checkout. Raises: CalledProcessError."""
    few, some = (_run(path, rounds, tree) for rounds in (ROUNDS, 3 * ROUNDS))
    return (some[0] - few[0]) / (some[1] - few[1])


def _run(path: str, rounds: int, tree: Path) -> tuple[int, int]:
    """(instructions, messages) of one process."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "callgrind.out"
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        child = [sys.executable, str(Path(__file__).resolve()), "--child", path, str(rounds)]
        done = subprocess.run(
            [*valgrind, *child],
            cwd=tree,
            env={**os.environ, **SEED, "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            check=True,
        )
    collected = re.search(r"Collected : (\d+)", done.stderr)
    assert collected is not None, done.stderr
    return int(collected[1]), int(done.stdout)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.instructions", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="WORD", default="", help="paths whose name has this in it")
    parser.add_argument("--tree", type=Path, default=ROOT, metavar="DIRECTORY", help="another checkout, built")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--child", nargs=2, metavar=("PATH", "ROUNDS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(PATHS[options.child[0]](int(options.child[1])))
        return 0
    if shutil.which("valgrind") is None:
        print("bench.instructions needs valgrind (Debian package valgrind)", file=sys.stderr)
        return 2
    figures: dict[str, float] = {}
    for path in PATHS:
        if options.only in path:
            try:
                figures[path] = count(path, options.tree.resolve())
            except subprocess.CalledProcessError as error:
                print(f"{path}: {error.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                return 1
            print(f"{path:20} {figures[path]:10,.0f} instructions a message", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
