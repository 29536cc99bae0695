"""Readers that have stopped reading, and what the others notice of them: python -m bench.stalled

    one publisher --50 MB, at a fixed rate--> one channel --> 99 subscribers who read
                                                         '--> 0, 1, 100 who do not (a server of its own for each number)

    memory    how much the server's own has grown, and what the kernel keeps for its sockets
    delay     publish to delivery of those who read, from when each message was due
    after     one who had stopped reads on: all of it, once and in order, or the word that some is no longer held

The server on the first core, all else on the last. Results go to bench/results/stalled.json."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.machine import commit, facts
from bench.replay import served
from engine.auth.keys import Key, parse_key
from server.bench.load import Load, allow_descriptors
from server.bench.options import Options, Ramp
from server.bench.scenarios import run
from server.bench.target import Target
from server.bench.verdict import judge
from tests.harness import KEY, Server, rss
from tests.wsclient import WsClient

RESULTS = Path(__file__).parent / "results" / "stalled.json"
SIZE = 2_000  # bytes of a message
TOTAL = 50_000_000
WARMUP_SECONDS = 1.0
RECEIVE_BUFFER = 128 * 1024  # of who does not read: what a system gives at first
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Found:
    stalled: int
    grown_mb: float
    kernel_mb: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    own_cpu: float  # of the load's core
    caught_up: int  # messages that one of the stalled has read afterwards


def socket_pages() -> int:
    """Pages that the kernel keeps for all of TCP's buffers on this machine, both sides'."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            return int(words[words.index("mem") + 1])
    raise LookupError("no TCP in /proc/net/sockstat")


def measured(server: Server, *, stalled: int, readers: int, seconds: float) -> Found:
    """Raises: RuntimeError, something was lost, repeated or out of order."""
    rate = TOTAL / SIZE / seconds
    options = Options(
        host=server.address[0],
        port=server.address[1],
        secure=False,
        key=Key(*parse_key(KEY)),
        publishers=1,
        subscribers=readers,
        size=SIZE,
        ramp=Ramp(rate, rate, 0),
        duration=seconds,
        warmup=WARMUP_SECONDS,
        quiet=True,
    )
    load = Load(options, Target(options))
    with ExitStack() as stack:
        stack.callback(load.close)
        asleep = []
        for _ in range(stalled):
            client = stack.enter_context(WsClient(server.address, receive_buffer=RECEIVE_BUFFER))
            client.attach(load.channel_name(0))
            asleep.append(client)
        memory, pages = rss(server.pid), socket_pages()
        figures = run(load)
        verdict = judge(load)
        if not verdict.clean:
            raise RuntimeError(verdict.sentence())
        grown, kernel = rss(server.pid) - memory, (socket_pages() - pages) * PAGE
        caught_up = 0
        for client in asleep[:1]:
            last = ""
            while caught_up < load.tally.acknowledged:
                message = client.skip_to(11, 15)
                if message["action"] == 11 and not message["flags"] & 4:
                    raise RuntimeError("what it missed is no longer held")
                for member in message.get("messages", ()):
                    if member["serial"] <= last:
                        raise RuntimeError("a message came again")
                    last = member["serial"]
                    caught_up += 1
        return Found(
            stalled,
            round(grown / 1e6, 1),
            round(kernel / 1e6, 1),
            round(load.latency.percentile(50) / 1e3, 2),
            round(load.latency.percentile(99) / 1e3, 2),
            round(load.latency.largest / 1e3, 2),
            round(figures.own_cpu, 2),
            caught_up,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what readers that do not read cost the others.")
    parser.add_argument("--readers", type=int, default=99, help="who read")
    parser.add_argument("--seconds", type=float, default=10.0, help="in which 50 MB are published")
    parser.add_argument("--stalled", type=int, nargs="*", default=[0, 1, 100], help="who do not")
    arguments = parser.parse_args()
    allow_descriptors(arguments.readers + max(arguments.stalled) + 100)
    found = []
    print("stalled   server's memory   kernel's buffers   p50, ms   p99, ms   worst, ms   caught up", flush=True)
    for stalled in arguments.stalled:
        with served("") as server:
            one = measured(server, stalled=stalled, readers=arguments.readers, seconds=arguments.seconds)
        found.append(asdict(one))
        print(
            f"{stalled:7}{one.grown_mb:15} MB{one.kernel_mb:16} MB{one.p50_ms:10}{one.p99_ms:10}{one.worst_ms:12}"
            f"{one.caught_up:12,}",
            flush=True,
        )
    document = {"commit": commit(), **facts(), "readers": arguments.readers, "seconds": arguments.seconds}
    RESULTS.write_text(json.dumps({**document, "found": found}, indent=2) + "\n")
    print(f"written: bench/results/{RESULTS.name}")


if __name__ == "__main__":
    main()
