"""What TLS costs the server: the same loads without it and with it, in turns: python -m bench.tls [--rounds 3]

    server      on the first core, a new one for each run
    load        `unbroken bench` on the other cores; with TLS, in a thread of its own

CPU is the server's, for each delivery (or publish, where nobody reads), with all threads and the kernel's part; it is
steadier than rates, and the load tester's share of TLS is not in it. Every message must have been delivered once and in
order: else the exit status is 1. Results go to bench/results/tls.json."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from tests import certificates
from tests.harness import KEY, Server

RESULTS = Path(__file__).parent / "results" / "tls.json"
SECONDS = 2.0
CONNECTIONS = 400
DELIVERY, PUBLISH = "server CPU, us for each delivery", "server CPU, us for each publish"
MEMORY = "server memory, bytes for each connection"


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    arguments: tuple[str, ...]
    figure: str


def _throughput(publishers: int, subscribers: int, window: int) -> tuple[str, ...]:
    channels = 1 if publishers == 1 else publishers
    pairs = {"publishers": publishers, "subscribers": subscribers, "channels": channels, "window": window}
    return tuple(f"--{name}={value}" for name, value in pairs.items())


ROWS = (
    Row("fan-out, 1 publisher to 200 subscribers, 16 in flight", _throughput(1, 200, 16), DELIVERY),
    Row("pairs, 16 publishers to 16 subscribers, 16 in flight each", _throughput(16, 16, 16), DELIVERY),
    Row("pairs, the same, one in flight each", _throughput(16, 16, 1), DELIVERY),
    Row("ingest, 16 publishers, 64 in flight each", _throughput(16, 0, 64), PUBLISH),
    Row("an idle connection, bytes", ("--scenario=idle", f"--subscribers={CONNECTIONS}"), MEMORY),
)


class Failed(Exception):
    """A run that found a fault, or nothing at all; the text says which."""


def measure(row: Row, directory: Path, *, tls: bool, seconds: float = SECONDS) -> float:
    """One run against a server of its own. Raises: Failed."""
    cores = sorted(os.sched_getaffinity(0))
    arguments = certificates.authority().arguments if tls else ()
    found = directory / "found.json"
    with Server(directory, arguments=arguments, before_exec=lambda: os.sched_setaffinity(0, cores[:1])) as server:
        command = [
            sys.executable,
            "-m",
            "server.cli",
            "bench",
            "--url",
            f"{'wss' if tls else 'ws'}://127.0.0.1:{server.port}",
        ]
        command += [*row.arguments, f"--duration={seconds}", f"--server-pid={server.pid}", f"--json={found}", "--quiet"]
        if tls:
            command.append("--insecure")
        done = subprocess.run(
            command,
            cwd=machine.ROOT,
            env={**os.environ, "UNBROKEN_KEY": KEY},
            capture_output=True,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores[1:] or cores),
            check=False,
        )
    if done.returncode != 0:
        *_, said = (done.stderr or done.stdout or "no reason was given").splitlines()
        raise Failed(f"{row.title}: {said}")
    return float(json.loads(found.read_text())["figures"][row.figure])


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Medians, with the lowest and the highest run."""
    lines = ["| | without TLS | with TLS | difference |", "| --- | ---: | ---: | ---: |"]
    for title, sides in found.items():
        middles = [statistics.median(sides[side]) for side in ("plain", "tls")]
        shown = [
            f"{_number(middle)} ({_number(min(sides[side]))} to {_number(max(sides[side]))})"
            for middle, side in zip(middles, ("plain", "tls"), strict=True)
        ]
        lines.append(f"| {title} | {shown[0]} | {shown[1]} | {_number(middles[1] - middles[0])} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures what TLS costs the server.")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error("--rounds must be at least 1")
    found: dict[str, dict[str, list[float]]] = {row.title: {"plain": [], "tls": []} for row in ROWS}
    for n in range(rounds):
        for row in ROWS:
            for side in ("plain", "tls"):
                with tempfile.TemporaryDirectory() as directory:
                    try:
                        found[row.title][side].append(measure(row, Path(directory), tls=side == "tls"))
                    except Failed as why:
                        print(f"bench.tls: {why}", file=sys.stderr)
                        return 1
                print(
                    f"round {n + 1} of {rounds}, {side}: {row.title}: {_number(found[row.title][side][-1])}",
                    file=sys.stderr,
                )
    print(table(found))
    held = {"commit": machine.commit(), "machine": machine.facts(), "rounds": rounds, "figures": found}
    RESULTS.write_text(json.dumps(held, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
