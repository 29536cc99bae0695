"""`python -m bench.peers`: the same work for our server and for others, side by side in one run.

    round 1: row 1: unbroken, nats, redis, ...  row 2: ...      round 2: the same again      round 3

Each run starts its server anew on core 0; the load runs on core 1. Rounds are outermost, so that what disturbs the
machine for a while does not hit one peer three times. After each run the results are saved: the same command goes on
where it was cut off. `python -m bench.report` makes the report of them."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.peers import results, scenarios, servers
from bench.peers.scenarios import ROWS, Row
from bench.peers.servers import PEERS, Missing, Peer

RESULTS = machine.ROOT / "bench" / "results" / "peers.json"
ROUNDS = 3
EXAMPLES = """\
examples:
  python -m bench.peers --list
      what can be measured here, and what is missing
  python -m bench.peers --program nats-server=/opt/nats/nats-server
      everything, some 11 minutes; goes on where it was cut off
  python -m bench.peers --rows 4,5 --peers unbroken,redis-stream --again
      these again
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m bench.peers",
        description=__doc__.partition("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="say what can be measured here, and measure nothing")
    parser.add_argument("--rows", metavar="N,N", help=f"these rows of {', '.join(map(str, ROWS))}")
    parser.add_argument("--peers", metavar="NAME,NAME", help=f"these of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"{ROUNDS}; medians are taken of them")
    parser.add_argument(
        "--program",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a program that is not where the system has it; may be given several times",
    )
    parser.add_argument("--fresh", action="store_true", help="forget the results so far")
    parser.add_argument("--again", action="store_true", help="measure also what is there already")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="bench/results/peers.json")
    options = parser.parse_args(arguments)
    try:
        rows = [ROWS[int(number)] for number in options.rows.split(",")] if options.rows else list(ROWS.values())
        chosen = {PEERS[name].name for name in options.peers.split(",")} if options.peers else set(PEERS)
    except (KeyError, ValueError) as unknown:
        parser.error(f"there is no row or peer {unknown}; see --list")
    if options.rounds < 1 or not all("=" in given for given in options.program):
        parser.error("--rounds takes 1 or more, --program NAME=PATH")
    programs = dict(given.split("=", 1) for given in options.program)
    found, missing = _find({name for row in rows for name in row.peers} & chosen, programs)
    for name, reason in missing.items():
        print(f"left out: {PEERS[name].title}: {reason}", file=sys.stderr)
    if options.list:
        _list(rows, found, missing)
        return 0
    try:
        held = results.fresh() if options.fresh else results.continued(options.results)
    except (results.Other, ValueError) as reason:
        print(reason, file=sys.stderr)
        return 2
    held["missing"] = {name: why for name, why in held["missing"].items() if name not in found} | missing
    held["versions"] |= {name: version for name, (_, version) in found.items()}
    wanted = [
        (number, row, PEERS[name])
        for number in range(1, options.rounds + 1)
        for row in rows
        for name in row.peers
        if name in found and (options.again or not results.is_done(held, row.number, name, number))
    ]
    try:
        return _measure(wanted, {name: path for name, (path, _) in found.items()}, held, options.results)
    except OSError as reason:  # a run's own are in its result
        print(f"results can't be written: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def _find(names: set[str], programs: dict[str, str]) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Path and version of the peers that can run, and why the others cannot."""
    found, missing = {}, {}
    for name in (name for name in PEERS if name in names):
        try:
            found[name] = servers.find(PEERS[name], programs)
        except Missing as reason:
            missing[name] = str(reason)
    return found, missing


def _list(rows: Sequence[Row], found: dict[str, tuple[str, str]], missing: dict[str, str]) -> None:
    for row in rows:
        print(f"row {row.number}: {row.title}\n    {', '.join(name for name in row.peers if name in found)}")
    print()
    for name, (path, version) in found.items():
        print(f"{name:18} {version:22} {path}")
    for name, reason in missing.items():
        print(f"{name:18} missing: {reason}")


def _measure(wanted: Sequence[tuple[int, Row, Peer]], paths: dict[str, str], held: dict[str, Any], path: Path) -> int:
    """Returns 1 if a run could not be made."""
    cores = sorted(os.sched_getaffinity(0))
    pinned = len(cores) > 1
    held["cores"] = {"server": cores[0], "load": cores[1]} if pinned else None
    if pinned:
        os.sched_setaffinity(0, {cores[1]})
    else:
        print("one core only: server and load share it, and all rates are lower than they could be", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    begun, failed = time.monotonic(), 0
    for done, (number, row, peer) in enumerate(wanted):
        left = (time.monotonic() - begun) / done * (len(wanted) - done) / 60 if done else 0
        about = f", {left:.0f} min left" if done else ""
        print(f"[{done + 1}/{len(wanted)}{about}] row {row.number}, round {number}, {peer.title}: ", end="", flush=True)
        try:
            figures = scenarios.measure(row, peer, paths[peer.name], core=cores[0] if pinned else None)
        except (Missing, scenarios.Refused, OSError) as reason:
            failed = 1
            print(f"failed: {reason}")
            results.put(held, {"row": row.number, "peer": peer.name, "round": number, "failed": str(reason)[:300]})
        else:
            results.put(held, {"row": row.number, "peer": peer.name, "round": number} | results.rounded(figures))
            print(_line(figures))
        results.save(path, held)
    print(f"{len(wanted)} runs, in {path}; python -m bench.report makes the report")
    return failed


def _line(figures: dict[str, Any]) -> str:
    said = [f"{figures['rate']:,.0f}/s"] if figures["rate"] is not None else []
    if figures["server_us"] is not None:
        said.append(f"{figures['server_us']:.3g} us of the server each")
    if "p50_us" in figures:
        said.append(f"p50 {figures['p50_us'] / 1000:.3g} ms, p99 {figures['p99_us'] / 1000:.3g} ms")
    faults = [
        f"{figures[name]} {name}"
        for name in ("lost", "repeats", "inversions", "unacknowledged", "cut_off")
        if figures[name]
    ]
    return ", ".join(said + faults)


if __name__ == "__main__":
    sys.exit(main())
