"""All clients lose the server at once, and come back: python -m bench.storm --clients 10000

    attach    all of them, spread over some channels, and messages in each
    kill -9   while the last of these are on their way
    start     the server again; what is published now, everybody misses
    return    all dial at once, resume their connections, and read on from their channelSerials

    others    a process of its own, all the time: GET /time, and a publish with its delivery, each every 20 ms. Their
              delays count from when they were due: a server that stands still delays all that were due meanwhile.

What counts is the time until the last one has caught up, and what the others notice of it. Every client must have got
every message once and in order, and every connection and cursor must have been good: else the exit status is 1. If
there are several cores, the server has the first one, and everything here shares the others."""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import multiprocessing.connection
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from engine.auth.keys import Key, parse_key
from server.bench.client import Client
from server.bench.load import Load, allow_descriptors
from server.bench.options import Options
from server.bench.target import Target, Unreachable
from server.bench.verdict import Verdict, judge
from tests.harness import KEY, Address, Server
from tests.wsclient import WsClient

RESULTS = Path(__file__).parent / "results" / "storm.json"
PROBE_SECONDS = 0.02
RETURN_SECONDS = 120.0  # for all to catch up
WAIT_US = 500
LOOK_SECONDS = 0.005  # between looks at who has caught up: it is a walk over all
QUIET_SECONDS = 2.0  # before the storm: what the others see of a server that has nothing else to do


@dataclass(slots=True)
class Found:
    """Times in seconds; ``others`` in milliseconds: what was probed and when -> p50, p99, worst."""

    clients: int
    missed: int  # messages, each by all of its channel
    restart_seconds: float = 0.0  # from kill -9 to ready
    connected_seconds: float = 0.0  # from the first dialling to the last ATTACHED
    caught_up_seconds: float = 0.0
    server_cpu_seconds: float = 0.0  # of these
    server_waited_seconds: float = 0.0  # of these, for a core: others work on the machine, too
    others: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def good(self) -> bool:
        return self.verdict.clean and not self.notes


class Others:
    """What somebody else has of the server meanwhile; in a process of its own. A context manager."""

    def __init__(self, address: Address) -> None:
        self._address = address
        ours, theirs = multiprocessing.Pipe()
        self._pipe = ours
        self._process = multiprocessing.get_context("spawn").Process(
            target=_probe_until_told, args=(address, theirs), daemon=True
        )

    def __enter__(self) -> Others:
        self._process.start()
        self._pipe.recv()  # it is at work
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def result(self) -> dict[str, list[tuple[float, float]]]:
        """Ends it. For each probe: when it was due (of the monotonic clock), and its delay in ms."""
        self._pipe.send(None)
        found: dict[str, list[tuple[float, float]]] = self._pipe.recv()
        return found


def _probe_until_told(address: Address, pipe: multiprocessing.connection.Connection) -> None:
    with suppress(PermissionError):
        os.nice(-10)  # it shares a core with the storm, whose work is not the server's delay
    over = threading.Event()
    request = http.client.HTTPConnection(*address, timeout=60)
    with WsClient(address) as client:
        client.attach("others")

        def get_time() -> None:
            request.request("GET", "/time")
            request.getresponse().read()

        def publish() -> None:
            client.pour("others", "x" * 128)
            client.skip_to(15)

        probes: dict[str, Callable[[], object]] = {
            "GET /time": get_time,
            "publish to delivery": publish,
            "nothing (the probe itself)": lambda: None,
        }
        found: dict[str, list[tuple[float, float]]] = {what: [] for what in probes}
        threads = [
            threading.Thread(target=_probe, args=(do, samples, over), daemon=True)
            for do, samples in zip(probes.values(), found.values(), strict=True)
        ]
        for thread in threads:
            thread.start()
        pipe.send("at work")
        pipe.recv()
        over.set()
        for thread in threads:
            thread.join()
        pipe.send(found)


def _probe(do: Callable[[], object], samples: list[tuple[float, float]], over: threading.Event) -> None:
    """One at a time. One that takes long stands for all that were due meanwhile, and would have waited for its end."""
    due = time.monotonic()
    while not over.is_set():
        do()
        end = time.monotonic()
        while due <= end:
            samples.append((due, (end - due) * 1e3))
            due += PROBE_SECONDS
        time.sleep(max(0.0, due - time.monotonic()))


def core_seconds(pid: int) -> tuple[float, float]:
    """How long its main thread, the loop, has had a core, and has waited for one."""
    used, waited, _ = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()
    return int(used) / 1e9, int(waited) / 1e9


def summary(samples: list[tuple[float, float]], begin: float, end: float) -> tuple[float, float, float]:
    """p50, p99 and the worst of those that were due in this time, in ms. Raises: ValueError, there are none."""
    delays = sorted(delay for due, delay in samples if begin <= due <= end)
    if not delays:
        raise ValueError(f"nothing was due in {end - begin:.3f} s")
    places = (len(delays) // 2, len(delays) * 99 // 100, len(delays) - 1)
    first, second, third = (round(delays[place], 2) for place in places)
    return first, second, third


def storm(
    server: Server,
    *,
    clients: int,
    channels: int,
    missed: int,
    at_once: int,
    say: Callable[[str], None] = lambda text: None,
    quiet_seconds: float = QUIET_SECONDS,
    return_seconds: float = RETURN_SECONDS,
) -> Found:
    """One storm over a server that is running; it runs again afterwards. Raises: Unreachable, some never got in."""
    options = Options(
        host=server.address[0],
        port=server.address[1],
        secure=False,
        key=Key(*parse_key(KEY)),
        scenario="reconnect",
        publishers=channels,
        subscribers=clients,
        channels=channels,
        window=16,
        at_once=at_once,
        prefix="storm",
    )
    found = Found(clients, missed)
    load = Load(options, Target(options))
    with ExitStack() as stack:
        stack.callback(load.close)
        _attach_all(load, clients, channels, missed, say)
        began = time.monotonic()
        server.restart()
        found.restart_seconds = time.monotonic() - began
        _notice(load)
        say(f"killed and started again in {found.restart_seconds:.2f} s")
        load.connect(load.publishers)
        load.wait_ready(load.publishers)
        load.publish_count(2 * missed)
        others = stack.enter_context(Others(server.address))
        quiet = time.monotonic()
        time.sleep(quiet_seconds)
        begin = time.monotonic()
        used, waited = core_seconds(server.pid)
        _return_all(load, found, 2 * missed, return_seconds, say)
        end = time.monotonic()
        used_now, waited_now = core_seconds(server.pid)
        found.server_cpu_seconds, found.server_waited_seconds = used_now - used, waited_now - waited
        load.settle()
        for what, samples in others.result().items():
            found.others[f"{what}, before"] = summary(samples, quiet, begin)
            found.others[f"{what}, in the storm"] = summary(samples, begin, end)
        found.notes, found.verdict = dict(load.notes), judge(load)
    return found


def _attach_all(load: Load, clients: int, channels: int, count: int, say: Callable[[str], None]) -> None:
    begin = time.monotonic()
    subscribers = [load.add_subscriber(keep_serial=True) for _ in range(clients)]
    load.connect(subscribers)
    load.wait_ready(subscribers)
    publishers = [load.add_publisher() for _ in range(channels)]
    load.connect(publishers)
    load.wait_ready(publishers)
    load.publish_count(count)
    say(f"{clients:,} clients attached to {channels} channels in {time.monotonic() - begin:.2f} s")


def _notice(load: Load) -> None:
    """Let everybody see that the server has gone; that was planned, and counts for nothing."""
    while any(client.ready for client in [*load.subscribers, *load.publishers]):
        load.turn(WAIT_US)
    load.lost_connections = 0
    load.notes.clear()


def _return_all(load: Load, found: Found, expected: int, seconds: float, say: Callable[[str], None]) -> None:
    waiting: list[Client] = list(load.subscribers)
    back = 0

    def ready(client: Client) -> None:
        nonlocal back
        back += 1

    load.on_ready = ready
    begin = told = looked = time.monotonic()
    load.connect(waiting)
    while waiting:
        load.turn(WAIT_US)
        now = time.monotonic()
        if back == found.clients and not found.connected_seconds:
            found.connected_seconds = now - begin
        if now - looked >= LOOK_SECONDS:
            looked = now
            waiting = [client for client in waiting if client.receiver.received < expected]
        if now - told >= 1:
            told = now
            say(f"{now - begin:5.1f} s: {back:,} are back, {found.clients - len(waiting):,} have caught up")
        if load.failures or now - begin > seconds:
            why = next(iter(load.notes), f"no more than that within {seconds:g} s")
            raise Unreachable(f"{back} of {found.clients} came back, {len(waiting)} have not caught up: {why}")
    found.caught_up_seconds = time.monotonic() - begin


def report(found: Found) -> str:
    rate = found.clients / found.caught_up_seconds
    lines = [
        f"kill -9 to ready                 {found.restart_seconds:8.2f} s",
        f"all connected and attached       {found.connected_seconds:8.2f} s",
        f"all caught up                    {found.caught_up_seconds:8.2f} s   {rate:,.0f} clients/s, "
        f"{rate * found.missed:,.0f} messages/s",
        f"  the server had a core for        {found.server_cpu_seconds:8.2f} s   and waited for one "
        f"{found.server_waited_seconds:.2f} s",
        f"{'delays of others, ms':40} {'p50':>8} {'p99':>8} {'worst':>8}",
        *(f"  {what:38} {p50:8.2f} {p99:8.2f} {worst:8.2f}" for what, (p50, p99, worst) in found.others.items()),
        *(f"{count} times: {text}" for text, count in found.notes.items()),
        found.verdict.sentence(),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures how clients come back to a server that was killed.")
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--channels", type=int, default=100)
    parser.add_argument("--missed", type=int, default=20, help="messages that each client has missed (20)")
    parser.add_argument("--at-once", type=int, default=1_000, help="clients that are dialling at a time (1000)")
    arguments = parser.parse_args()
    if min(arguments.clients, arguments.channels, arguments.missed, arguments.at_once) < 1:
        parser.error("--clients, --channels, --missed and --at-once must be at least 1")
    cores = sorted(os.sched_getaffinity(0))
    try:
        allow_descriptors(arguments.clients + arguments.channels)
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[1:])
        with (
            tempfile.TemporaryDirectory() as directory,
            Server(Path(directory), before_exec=lambda: os.sched_setaffinity(0, cores[:1])) as server,
        ):
            found = storm(
                server,
                clients=arguments.clients,
                channels=arguments.channels,
                missed=arguments.missed,
                at_once=arguments.at_once,
                say=lambda text: print(text, file=sys.stderr, flush=True),
            )
    except Unreachable as error:
        print(f"bench.storm: {error}", file=sys.stderr)
        return 1
    print(report(found))
    RESULTS.write_text(
        json.dumps(
            {
                "clients": found.clients,
                "channels": arguments.channels,
                "missed": found.missed,
                "restart_seconds": round(found.restart_seconds, 3),
                "connected_seconds": round(found.connected_seconds, 3),
                "caught_up_seconds": round(found.caught_up_seconds, 3),
                "others_ms": found.others,
                "server_cpu_seconds": round(found.server_cpu_seconds, 2),
                "server_waited_seconds": round(found.server_waited_seconds, 2),
                "verdict": found.verdict.sentence(),
            },
            indent=2,
        )
        + "\n"
    )
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
