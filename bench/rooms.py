"""`make bench`: every hot room beside plain Python, and beside what was committed last.

    pytest bench, three times  ->  bench.compare  ->  one table, results/rooms.json, results/rooms.png
                                  what differs: three times more

Three passes one after the other, not three times as many rounds: what disturbs a machine lasts for seconds, and the
median of three passes leaves one disturbed pass out. What seems better or worse is measured again: passes that disagree
are far apart, and count as noise."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import compare, machine

RESULTS = machine.ROOT / "bench" / "results"
COMMITTED = "bench/results/rooms.json"
PASSES = 3
PASS_SECONDS = 0.3  # for each benchmark that repeats freely: some 25 s a pass


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.rooms", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="WORDS", help="pytest's -k: measure these and print; nothing is written")
    parser.add_argument("--passes", type=int, default=PASSES, metavar="N", help=f"default {PASSES}")
    options = parser.parse_args(arguments)
    if options.passes < 1:
        parser.error("--passes takes 1 or more")

    passes = _passes(options.passes, ["bench", *(("-k", options.only) if options.only else ())])
    if passes is None:
        return 1
    rooms = compare.condense(passes)
    committed = _committed()
    same_machine = committed.get("machine") == machine.facts()
    before = [
        room
        for room in compare.from_json(committed.get("rooms", []))
        if not options.only or room.name in {measured.name for measured in rooms}
    ]
    disputed = _differing(before, rooms, same_machine=same_machine)
    if disputed:
        print(f"{len(disputed)} differ; these again", file=sys.stderr)
        again = _passes(options.passes, compare.node_ids(passes, disputed))
        if again is None:
            return 1
        rooms = compare.condense([*passes, *again])
    print("\n".join(compare.table(rooms, before, same_machine=same_machine, against=committed.get("commit", ""))))
    print(
        f"\nMedians of {options.passes} passes. Better or worse is said beyond the noise only, and never within "
        f"{compare.EQUAL:.0%}."
    )
    if before and not same_machine:
        print("The last committed result is another machine's: ratios to the baseline are compared, not times.")
    if not options.only:
        _write(rooms, options.passes)
    return 0


def _differing(before: Sequence[compare.Room], rooms: Sequence[compare.Room], *, same_machine: bool) -> list[str]:
    """The names of the rooms that seem better or worse."""
    held = {room.name: room for room in before}
    changes = {
        room.name: compare.change(held[room.name], room, same_machine=same_machine)
        for room in rooms
        if room.name in held
    }
    return [name for name, change in changes.items() if change is not None and change.word != "same"]


def _passes(count: int, selection: Sequence[str]) -> list[dict[str, Any]] | None:
    """So many passes over what pytest is asked for; None if a benchmark failed."""
    passes = []
    for number in range(1, count + 1):
        print(f"pass {number} of {count} ...", file=sys.stderr, flush=True)
        measured = _measure(selection)
        if measured is None:
            return None
        passes.append(measured)
    return passes


def _measure(selection: Sequence[str]) -> dict[str, Any] | None:
    """One pass; None if a benchmark failed, which pytest has then said."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pass.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            *selection,
            "--quiet",
            "--benchmark-enable",
            "--benchmark-only",
            f"--benchmark-max-time={PASS_SECONDS}",
            f"--benchmark-json={path}",
        ]
        done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True, check=False)
        if done.returncode or not path.exists():
            print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
            return None
        measured: dict[str, Any] = json.loads(path.read_text())
        return measured


def _committed() -> dict[str, Any]:
    """The last committed result, or the file as it lies there outside of git; {} when there is none."""
    text = machine.git("show", f"HEAD:{COMMITTED}")
    if not text and not machine.commit() and (machine.ROOT / COMMITTED).exists():
        text = (machine.ROOT / COMMITTED).read_text()
    held: dict[str, Any] = json.loads(text) if text else {}
    return held if held.get("format") == compare.FORMAT else {}


def _write(rooms: Sequence[compare.Room], passes: int) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "rooms.json"
    head = {
        "format": compare.FORMAT,
        "command": "make bench",
        "measured": datetime.now(UTC).date().isoformat(),
        "commit": machine.commit(),
        "passes": passes,
        "machine": machine.facts(),
    }
    lines = ",\n".join("    " + json.dumps(room) for room in compare.as_json(rooms))
    text = json.dumps(head, indent=2)[:-2] + f',\n  "rooms": [\n{lines}\n  ]\n}}\n'
    path.write_text(text)
    print(f"written: {path.relative_to(machine.ROOT)}", end="")
    try:
        from bench.plots import plot_rooms
    except ImportError:
        print("; no plot, as matplotlib is not installed: pip install --editable '.[bench]'")
        return
    plot_rooms(rooms, head, RESULTS / "rooms.png")
    print(f", {(RESULTS / 'rooms.png').relative_to(machine.ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
