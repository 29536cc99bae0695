"""Publishing and reading over HTTP, with wrk: python -m bench.http

    POST 1, 16 and 64 connections     one message of 100 bytes in a request, one request under way in a connection
    POST 100                          an array of 100 of them
    history                           100 messages of a channel of --messages: newest, next, oldest, by time

The server on the first core, synced; wrk (https://github.com/wg/wrk, a package of most systems) on the last. With
``--other DIRECTORY``, another checkout that has been built, both are measured in turns: then their ratio can be trusted
though other work is done on the machine. Results are printed as a table; what wrk asks for is in bench/http.lua."""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.machine import commit, facts
from bench.replay import cpu_seconds
from tests.harness import KEY, Server, channel_path

SCRIPT = Path(__file__).with_name("http.lua")
CHANNEL = "room"
FILL = 500  # messages of one request: 60 KB
HEADERS = {"Authorization": "Basic " + base64.b64encode(KEY.encode()).decode(), "Content-Type": "application/json"}
TIMES = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Run:
    """One run of wrk: requests a second, latencies in ms, the server's CPU for each request in us."""

    rate: float
    p50: float
    p99: float
    cpu: float


@contextmanager
def served(executable: Path) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as directory:
        first = min(os.sched_getaffinity(0))
        with Server(
            Path(directory), before_exec=lambda: os.sched_setaffinity(0, {first}), executable=executable
        ) as server:
            yield server


def run(server: Server, path: str, connections: int, seconds: int, messages: int) -> Run:
    """Raises: RuntimeError, when a request was refused or wrk had something else to complain of."""
    told = {"UNBROKEN_KEY": base64.b64encode(KEY.encode()).decode(), "UNBROKEN_PATH": path}
    told["UNBROKEN_MESSAGES"] = str(messages)
    last = max(os.sched_getaffinity(0))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(SCRIPT), server.url]
    before = cpu_seconds(server.pid)
    done = subprocess.run(
        command,
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {last}),
    )
    used = cpu_seconds(server.pid) - before
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(done.stdout)
    requests = int(_found(r"(\d+) requests in", done.stdout)[0])
    rate = float(_found(r"Requests/sec: +([\d.]+)", done.stdout)[0])
    p50, p99 = (_ms(*_found(rf"{part}% +([\d.]+)(us|ms|s)", done.stdout)) for part in (50, 99))
    return Run(rate, p50, p99, used / requests * 1e6)


def _found(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"wrk did not say {pattern!r}:\n{text}")
    return match.groups()


def _ms(number: str, unit: str) -> float:
    return float(number) * TIMES[unit]


def fill(server: Server, count: int) -> list[tuple[str, str]]:
    """Publish so many messages; names and paths of the pages that are measured."""
    connection = http.client.HTTPConnection(*server.address)
    body = json.dumps([{"name": "event", "data": "x" * 100}] * FILL)
    for _ in range(-(-count // FILL)):
        connection.request("POST", channel_path(CHANNEL), body, HEADERS)
        response = connection.getresponse()
        if response.status != 201:
            raise RuntimeError(response.read().decode())
        response.read()
    path = channel_path(CHANNEL)

    def ask(query: str) -> tuple[list[dict[str, int]], str]:
        connection.request("GET", path + query, headers=HEADERS)
        response = connection.getresponse()
        links = [link for link in response.headers.get_all("Link", []) if 'rel="next"' in link]
        page = json.loads(response.read())
        return page, re.sub(r"<\./(.*)>.*", r"\1", links[0])

    newest, following = ask("")
    oldest, _ = ask("?direction=forwards")
    middle = (newest[0]["timestamp"] + oldest[0]["timestamp"]) // 2
    connection.close()
    return [
        ("history, newest", path),
        ("history, next page", path.rpartition("/")[0] + "/" + following),
        ("history, oldest", path + "?direction=forwards"),
        ("history, by time", f"{path}?end={middle}"),
    ]


def measure(executables: dict[str, Path], seconds: int, rounds: int, messages: int) -> dict[str, dict[str, list[Run]]]:
    """By workload, then by server: the runs, one of each server in turns."""
    results: dict[str, dict[str, list[Run]]] = {}

    def note(workload: str, name: str, one: Run) -> None:
        results.setdefault(workload, {}).setdefault(name, []).append(one)

    for _ in range(rounds):
        for name, executable in executables.items():
            with served(executable) as server:
                for connections in (16, 64):
                    one = run(server, channel_path("single"), connections, seconds, 1)
                    note(f"POST 1, {connections} connections", name, one)
                note("POST 100, 16 connections", name, run(server, channel_path("arrays"), 16, seconds, 100))
                for workload, path in fill(server, messages) if messages else []:
                    note(workload, name, run(server, path, 1, seconds, 0))
    return results


def table(results: dict[str, dict[str, list[Run]]]) -> str:
    lines = ["| workload | server | requests/s: median (best) | p50, p99 ms | server us each |", "| --- " * 5 + "|"]
    for workload, by_server in results.items():
        for name, runs in by_server.items():
            rates = [one.rate for one in runs]
            p50, p99, cpu = (statistics.median(getattr(one, part) for one in runs) for part in ("p50", "p99", "cpu"))
            best = f"{statistics.median(rates):,.0f} ({max(rates):,.0f})"
            lines.append(f"| {workload} | {name} | {best} | {p50:.2f}, {p99:.2f} | {cpu:.0f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Publishing and reading over HTTP, measured with wrk.")
    parser.add_argument("--other", type=Path, help="another checkout, built, to be measured in turns with this one")
    parser.add_argument("--seconds", type=int, default=4, help="whole ones, of each run (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="of all runs (default 3)")
    parser.add_argument("--messages", type=int, default=1_000_000, help="in the channel that is read; 0: read nothing")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        print(
            "wrk is not installed; its package is called wrk on Debian, Fedora, Alpine and in Homebrew", file=sys.stderr
        )
        return 2
    executables = {"this": Path(sys.executable).with_name("unbroken")}
    if given.other is not None:
        executables = {"other": (given.other / ".venv" / "bin" / "unbroken").absolute(), **executables}
    results = measure(executables, given.seconds, given.rounds, given.messages)
    print(table(results))
    told = facts()
    where = f"{told['cpu']}, {told['cores']} cores, {told['system']}"
    print(f"\n{where}, commit {commit()}; load of the last 5 minutes {os.getloadavg()[1]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
