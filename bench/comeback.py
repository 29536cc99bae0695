"""How soon everybody is back after a restart: python -m bench.comeback [--clients 1000] [--tls]

    handed over   the listening socket is a supervisor's, as systemd has it: it outlives the server
    its own       the server's: closed from its end until the next one is there

Clients are as SDKs are: who loses the connection tries once, at once, to take it up again and read on from its cursor;
who fails with that waits for 15 s. Messages are published until the end, and afterwards.

    SIGTERM --drain--> exit --start--> ready --> the last one is attached again

Every client must have got every message once and in order: else the exit status is 1. If there are several cores, the
server has the first one. Results go to bench/results/comeback.json."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.auth.keys import Key, parse_key
from server.bench.client import Client
from server.bench.load import Load, allow_descriptors
from server.bench.options import Options
from server.bench.target import Target, Unreachable
from server.bench.verdict import judge
from tests import certificates
from tests.harness import KEY, Server

RESULTS = Path(__file__).parent / "results" / "comeback.json"
RETRY_SECONDS = 15.0  # of an SDK whose first try has failed
GIVE_UP_SECONDS = 120.0
MESSAGES = 50  # of each publisher, before and afterwards
WAIT_US = 500


@dataclass(frozen=True, slots=True)
class Found:
    """Seconds from SIGTERM on: until the process had ended, the next was ready, the first half and all were back."""

    socket: str
    clients: int
    tls: bool
    ended: float
    ready: float
    half: float
    all: float
    refused: int  # tries that met no server
    verdict: str
    good: bool


class Returning(Load):
    """Clients that come back by themselves."""

    def __init__(self, options: Options, target: Target) -> None:
        super().__init__(options, target)
        self.back: list[float] = []  # when
        self.refused = 0
        self._later: list[tuple[float, Client]] = []

    def lost(self, client: Client, why: str) -> None:
        self.connect([client])

    def failed(self, client: Client, why: str) -> None:
        self.refused += 1
        self._later.append((time.monotonic() + RETRY_SECONDS, client))

    def ready(self, client: Client) -> None:
        super().ready(client)
        self.back.append(time.monotonic())

    def retry(self) -> None:
        now = time.monotonic()
        due = [client for at, client in self._later if at <= now]
        self._later = [(at, client) for at, client in self._later if at > now]
        self.connect(due)


class Restart(threading.Thread):
    """Of the server, as a supervisor does it."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self.ended = self.up = 0.0

    def run(self) -> None:
        self._server.terminate()
        self._server.wait(60)
        self.ended = time.monotonic()
        self._server.start()
        self.up = time.monotonic()


def comeback(server: Server, *, handed: bool, clients: int, channels: int, tls: bool) -> Found:
    """One restart of a server that is running. Raises: Unreachable, some never came back."""
    options = Options(
        host=server.address[0],
        port=server.address[1],
        secure=tls,
        verify=False,
        key=Key(*parse_key(KEY)),
        scenario="reconnect",
        publishers=channels,
        subscribers=clients,
        channels=channels,
        window=16,
        at_once=256,
        prefix="comeback",
    )
    load = Returning(options, Target(options))
    with ExitStack() as stack:
        stack.callback(load.close)
        load.connect([load.add_subscriber(keep_serial=True) for _ in range(clients)])
        load.wait_ready(load.subscribers)
        load.connect([load.add_publisher() for _ in range(channels)])
        load.wait_ready(load.publishers)
        load.publish_count(MESSAGES)
        load.back.clear()
        restart = Restart(server)
        begin = time.monotonic()
        restart.start()
        everybody = clients + channels
        while len(load.back) < everybody or not restart.up:
            load.turn(WAIT_US)
            load.retry()
            if time.monotonic() - begin > GIVE_UP_SECONDS:
                raise Unreachable(
                    f"{len(load.back)} of {everybody} came back within {GIVE_UP_SECONDS:g} s: {load.notes}"
                )
        restart.join()
        load.publish_count(2 * MESSAGES)
        load.settle()
        verdict = judge(load)
        return Found(
            "handed over" if handed else "its own",
            clients,
            tls,
            *(
                round(at - begin, 3)
                for at in (restart.ended, restart.up, load.back[everybody // 2], load.back[everybody - 1])
            ),
            load.refused,
            verdict.sentence(),
            verdict.correct,
        )


def measured(*, handed: bool, clients: int, channels: int, tls: bool) -> Found:
    cores = sorted(os.sched_getaffinity(0))
    arguments = certificates.authority().arguments if tls else ()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))] if handed else []
        server = Server(
            Path(directory),
            arguments=arguments,
            sockets=sockets,
            before_exec=lambda: os.sched_setaffinity(0, cores[:1]),
        )
        return comeback(stack.enter_context(server), handed=handed, clients=clients, channels=channels, tls=tls)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--channels", type=int, default=10)
    parser.add_argument("--tls", action="store_true")
    given = parser.parse_args()
    if min(given.clients, given.channels) < 1:
        parser.error("--clients and --channels must be at least 1")
    allow_descriptors(given.clients + given.channels)
    found = []
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[1:])
    print(f"{'socket':12} {'ended':>8} {'ready':>8} {'half':>8} {'all back':>9}   seconds from SIGTERM")
    for handed in (True, False):
        try:
            one = measured(handed=handed, clients=given.clients, channels=given.channels, tls=given.tls)
        except Unreachable as error:
            print(f"bench.comeback: {error}", file=sys.stderr)
            return 1
        found.append(one)
        print(f"{one.socket:12} {one.ended:8.2f} {one.ready:8.2f} {one.half:8.2f} {one.all:9.2f}", end="   ")
        print(f"{one.refused} tries met no server; {one.verdict}", flush=True)
    RESULTS.write_text(json.dumps([asdict(each) for each in found], indent=2) + "\n")
    return 0 if all(each.good for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
