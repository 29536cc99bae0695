"""A server under churn for as long as it is told to: does anything grow? python -m bench.soak --minutes 10

    every round    connections come, attach, publish, detach, and go: closed, reset, or cut in the middle of a frame
                   channels are born, are used for a round, and sleep
                   some read on from an old cursor, some ask for history, some do not read for a while
    all the time   one pair measures publish to delivery

    samples        once a second: memory, descriptors, threads, delay           bench/results/soak.csv
    verdict        a line through the second half: growth per hour, and how sure that is

    --upheaval plain or tls: in place of that, rounds of slow readers, cuts and kills (tests/upheaval.py), each checked

The windows are short (20 s), so that what is to be forgotten is forgotten many times over."""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import math
import os
import random
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from bench.drawing import plotting
from tests.certificates import authority
from tests.harness import Address, Server, history, rss
from tests.peer import message
from tests.upheaval import upheaval
from tests.wsclient import WsClient

RESULTS = Path(__file__).parent / "results"
CONFIG = "[limits]\nwindow_seconds = 20\nconnection_state_seconds = 20\n"
CROWD = 8  # connections that come and go together
SLOW = 3  # readers that let a while pass
BIN_SECONDS = 10  # neighbours resemble each other: their means, this far apart, are nearly independent
FLAT_MB_PER_HOUR = 20.0  # below this no operator sees it in a week of restarts; and a run of minutes can tell no less


@dataclass(frozen=True, slots=True)
class Sample:
    seconds: float
    rss: int
    descriptors: int
    threads: int
    p50_ms: float
    worst_ms: float
    connections: int
    messages: int


class Churn:
    """The rounds. ``channels``: how many names there are; None: always new ones."""

    def __init__(self, address: Address, *, seed: int, channels: int | None = None) -> None:
        self.connections = self.messages = 0
        self.delays: list[float] = []
        self._address = address
        self._random = random.Random(seed)
        self._channels = channels
        self._born = 0
        self._cursors: list[tuple[str, str]] = []  # channels, and where somebody once was in them
        self._open = ExitStack()
        self._publisher = self._open.enter_context(WsClient(address))
        self._subscriber = self._open.enter_context(WsClient(address))
        self._subscriber.attach("steady")
        self._slow: list[WsClient] = []

    def __enter__(self) -> Churn:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._slow:
            client.socket.close()
        self._open.close()

    def round(self) -> None:
        """Some hundred milliseconds of all that clients do."""
        crowd = [self._come() for _ in range(CROWD)]
        for client in crowd:
            self._use(client)
        self._measure()
        self._pour()
        self._look_back()
        for client in crowd:
            self._leave(client)
        self._measure()

    def _come(self, *, receive_buffer: int = 0) -> WsClient:
        self.connections += 1
        return WsClient(self._address, receive_buffer=receive_buffer)

    def _name(self) -> str:
        self._born += 1
        return f"churn-{self._born if self._channels is None else self._born % self._channels}"

    def _use(self, client: WsClient) -> None:
        names = [self._name() for _ in range(self._random.randint(1, 4))]
        for name in names:
            self._cursors.append((name, client.attach(name)["channelSerial"]))
        for name in names:
            count = self._random.randint(1, 20)
            client.pour(name, *["x" * self._random.randint(1, 500)] * count)
            client.acked(count)
            self.messages += count
        if len(names) > 1:
            client.send({"action": 12, "channel": names[0]})
            client.skip_to(13)

    def _measure(self) -> None:
        begin = time.perf_counter()
        self._publisher.pour("steady", "x" * 128)
        self._subscriber.skip_to(15)
        self.delays.append((time.perf_counter() - begin) * 1e3)
        self._publisher.acked(1)
        self.messages += 1

    def _pour(self) -> None:
        """A lot into one channel, with readers that take it in late, or never."""
        while len(self._slow) < SLOW:
            client = self._come(receive_buffer=8192)
            client.send({"action": 10, "channel": "poured"})
            self._slow.append(client)
        self._publisher.pour("poured", *["y" * 2000] * 40)
        self._publisher.acked(40)
        self.messages += 40
        late = self._random.choice(self._slow)
        with suppress(TimeoutError):
            for _ in range(self._random.randint(0, 200)):
                late.receive(0.001)
        if self._random.random() < 0.1:
            self._slow.remove(late)
            self._reset(late)

    def _look_back(self) -> None:
        """Read on from where somebody was; some of it may be gone. And a page of history."""
        name, cursor = self._random.choice(self._cursors)
        del self._cursors[:-200]
        with self._come() as client:
            client.attach(name, channelSerial=cursor)
        with suppress(http.client.HTTPException, OSError):
            history(self._address, name, limit=50)

    def _leave(self, client: WsClient) -> None:
        way = self._random.randrange(4)
        if way == 0:
            client.send({"action": 7})
            client.skip_to(8)
            client.socket.close()
        elif way == 1:
            client.socket.close()
        elif way == 2:
            self._reset(client)
        else:
            messages = [{"data": "z" * 5000}]
            half = message({"action": 15, "channel": "cut", "msgSerial": client.next_serial, "messages": messages})
            client.write(half[: self._random.randint(1, len(half) - 1)])
            self._reset(client)

    @staticmethod
    def _reset(client: WsClient) -> None:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()


def sample(server: Server, churn: Churn, seconds: float) -> Sample:
    process = Path(f"/proc/{server.pid}")
    delays, churn.delays = sorted(churn.delays) or [0.0], []
    return Sample(
        round(seconds, 1),
        rss(server.pid),
        len(os.listdir(process / "fd")),
        len(os.listdir(process / "task")),
        round(statistics.median(delays), 2),
        round(delays[-1], 2),
        churn.connections,
        churn.messages,
    )


def soak(server: Server, churn: Churn, seconds: float, *, pace: float = 0.1) -> Iterator[Sample]:
    """Rounds for so long, ``pace`` seconds from one to the next; what the server looks like, once a second."""
    begin = time.monotonic()
    due = begin + 1
    while (now := time.monotonic()) < begin + seconds:
        churn.round()
        time.sleep(max(0.0, now + pace - time.monotonic()))
        if now >= due:
            due = now + 1
            yield sample(server, churn, now - begin)


def growth(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope of the line through them, and the half width of its 95 % interval; per unit of the first coordinate."""
    count = len(points)
    if count < 3:
        raise ValueError(f"a line with its error takes at least 3 points, got {count}")
    at = statistics.fmean(x for x, _ in points)
    mean = statistics.fmean(y for _, y in points)
    spread = sum((x - at) ** 2 for x, _ in points)
    slope = sum((x - at) * (y - mean) for x, y in points) / spread
    rest = sum((y - mean - slope * (x - at)) ** 2 for x, y in points)
    # Student's t for 95 %, to within 4 % (2.78 for 6 points, 1.96 for very many).
    free = count - 2
    t = 12.71 if free == 1 else 1.96 + 2.44 / free + 3.9 / free**2 if free > 1 else 0.0
    return slope, t * math.sqrt(rest / free / spread)


def binned(samples: Sequence[Sample], of: Callable[[Sample], float]) -> list[tuple[float, float]]:
    bins: dict[int, list[Sample]] = {}
    for each in samples:
        bins.setdefault(int(each.seconds // BIN_SECONDS), []).append(each)
    return [
        (statistics.fmean(each.seconds for each in some), statistics.fmean(of(each) for each in some))
        for some in bins.values()
    ]


def verdict(samples: Sequence[Sample]) -> tuple[str, dict[str, float]]:
    """A line through the second half of the samples."""
    half = samples[len(samples) // 2 :]
    slope, error = (each * 3600 / 1e6 for each in growth(binned(half, lambda each: each.rss)))
    files, _ = growth(binned(half, lambda each: each.descriptors))
    numbers = {
        "mb_per_hour": round(slope, 2),
        "plus_minus": round(error, 2),
        "descriptors_per_hour": round(files * 3600, 2),
        "threads": max(each.threads for each in half),
        "rss_mb": round(half[-1].rss / 1e6, 1),
        "p50_ms": round(statistics.median(each.p50_ms for each in half), 2),
        "worst_ms": round(max(each.worst_ms for each in half), 1),
        "connections": samples[-1].connections,
        "messages": samples[-1].messages,
        "minutes": round(samples[-1].seconds / 60, 1),
    }
    text = f"memory {slope:+.1f} MB an hour, 95 % sure within {error:.1f}; descriptors {files * 3600:+.1f} an hour: "
    if slope - error > FLAT_MB_PER_HOUR:
        return text + "IT GROWS", numbers
    if slope + error < FLAT_MB_PER_HOUR:
        return text + "flat", numbers
    return text + f"not clear against {FLAT_MB_PER_HOUR:.0f} MB an hour; let it run for longer", numbers


def draw(samples: Sequence[Sample], text: str) -> None:
    with plotting(RESULTS / "soak.png", rows=3) as axes:
        if axes is None:
            return
        at = [each.seconds / 60 for each in samples]
        axes[0].plot(at, [each.rss / 1e6 for each in samples])
        axes[0].set(ylabel="memory, MB", ylim=(0, None))
        axes[0].set_title(text.replace("; ", "\n"), fontsize="medium")
        axes[1].plot(at, [each.descriptors for each in samples], label="descriptors")
        axes[1].plot(at, [each.threads for each in samples], label="threads")
        axes[1].set(ylim=(0, None))
        axes[1].legend()
        axes[2].semilogy(at, [each.worst_ms for each in samples], linewidth=0.6, label="worst")
        axes[2].semilogy(at, [each.p50_ms for each in samples], label="median")
        axes[2].set(ylabel="publish to delivery, ms", xlabel="minutes")
        axes[2].legend()


def unrest(way: str, seconds: float, seed: int) -> int:
    """Rounds for so long; the exit status: 1, if something was lost, repeated or out of order in one of them."""
    tls = authority() if way == "tls" else None
    arguments = tls.arguments if tls else ()
    end, rounds = time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as directory, Server(Path(directory), arguments=arguments) as server:
        while time.monotonic() < end:
            options = {"seconds": 10.0, "kills": 3, "seed": seed + rounds, "tls": tls.client if tls else None}
            report = upheaval(server, f"round-{rounds}", **options)
            rounds += 1
            print(f"round {rounds}: {report}; {rss(server.pid) / 1e6:.1f} MB", flush=True)
            if report.faults or server.complaints():
                print(server.complaints())
                return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Churns a real server, and tells whether anything grows.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--upheaval", choices=("plain", "tls"))
    arguments = parser.parse_args()
    if arguments.upheaval:
        return unrest(arguments.upheaval, arguments.minutes * 60, arguments.seed)
    if not arguments.minutes >= 1:
        parser.error(f"a line needs at least a minute, got {arguments.minutes}")
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as directory, Server(Path(directory), config=CONFIG) as server:
        with Churn(server.address, seed=arguments.seed) as churn:
            for each in soak(server, churn, arguments.minutes * 60):
                samples.append(each)
                if len(samples) % 10 == 0:
                    print(
                        f"{each.seconds:7.0f} s  {each.rss / 1e6:7.1f} MB  {each.descriptors:4} descriptors  "
                        f"{each.threads:3} threads  {each.p50_ms:6.2f} ms (worst {each.worst_ms:.1f})  "
                        f"{each.connections:,} connections  {each.messages:,} messages",
                        flush=True,
                    )
        complaints = server.complaints()
    with (RESULTS / "soak.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([field.name for field in fields(Sample)])
        rows.writerows(map(astuple, samples))
    text, numbers = verdict(samples)
    (RESULTS / "soak.json").write_text(json.dumps({"verdict": text, **numbers}, indent=2) + "\n")
    draw(samples, text)
    print(text)
    if complaints:
        print(f"the server has complained:\n{complaints}")
    return 1 if "GROWS" in text or complaints else 0


if __name__ == "__main__":
    raise SystemExit(main())
