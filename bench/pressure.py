"""What crowds can make the server hold, beside one client who must not notice: python -m bench.pressure [NAME ...]

    rings       one publisher, 240 channels, 2 GB of large messages (small: the same of 200 B, 1 GB)
    streams     32 names of 8 channels, each followed by a reader that has stopped reading; 72 MB published
    bodies      5,000 half requests of 64 kB, without credentials
    frames      2,000 connections with half a WebSocket message of 500 kB

    before, height, after      resident MB: at first, at most, and some time after the last of the crowd has gone
    canary                     publishes 50 messages a second and reads them: all, in order; p99 and worst delay in ms

The server has its defaults, but for windows of 20 s, so that there is something to give back soon. ``--after`` says how
long to wait for that. Results go to bench/results/pressure.json."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.harness import Address, Server, rss
from tests.peer import TEXT, GoneError, Peer, frame
from tests.wsclient import WsClient

RESULTS = Path(__file__).parent / "results" / "pressure.json"
RATE = 50  # messages of the canary in a second
CONFIG = "[limits]\nwindow_seconds = 20\n"


class Canary(threading.Thread):
    """Publishes on time and reads its own, all the while."""

    def __init__(self, address: Address) -> None:
        super().__init__(daemon=True)
        self._client = WsClient(address)
        self._client.attach("canary")
        self.delays: list[float] = []
        self._ended = False

    def run(self) -> None:
        number, due = 0, time.monotonic()
        while not self._ended:
            due += 1 / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            self._client.pour("canary", str(number))
            got = self._client.skip_to(15)
            assert [each["data"] for each in got["messages"]] == [str(number)], got
            self.delays.append(1000 * (time.monotonic() - due))
            number += 1

    def end(self) -> dict[str, float]:
        self._ended = True
        self.join()
        self._client.socket.close()
        delays = sorted(self.delays)
        return {
            "messages": len(delays),
            "p50": round(statistics.median(delays), 2),
            "p99": round(delays[int(len(delays) * 0.99)], 1),
            "worst": round(delays[-1], 1),
        }


@contextmanager
def highest(pid: int) -> Iterator[list[int]]:
    """The most that was resident so far, in a list of one."""
    found, ended = [rss(pid)], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            found[0] = max(found[0], rss(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    yield found
    ended.set()
    thread.join()


def rings(address: Address, stack: ExitStack, size: int = 60_000, total: int = 2_000_000_000) -> None:
    client, channels, sent = stack.enter_context(WsClient(address)), [f"flood-{n}" for n in range(240)], 0
    payload, batch = "x" * size, max(1, 1_500_000 // size)
    number = 0
    while sent < total:
        for _ in range(batch):
            client.pour(channels[number % len(channels)], payload)
            number += 1
        sent += batch * size
        missing = batch
        while missing:
            answer = client.skip_to(1, 2)
            assert answer["action"] == 1, answer
            missing -= answer["count"]


def small_rings(address: Address, stack: ExitStack) -> None:
    rings(address, stack, 200, 500_000_000)


def streams(address: Address, stack: ExitStack) -> None:
    for name in range(32):
        reader = stack.enter_context(WsClient(address, receive_buffer=8192))
        for channel in range(8):
            reader.send({"action": 10, "channel": f"[?x={name}]stalled-{channel}"})
    time.sleep(1)
    publisher = stack.enter_context(WsClient(address))
    for number in range(1200):
        publisher.pour(f"stalled-{number % 8}", "x" * 60_000)
        if number % 20 == 19:
            publisher.acked(20)


def half(address: Address, stack: ExitStack, head: bytes, body: bytes) -> None:
    one = stack.enter_context(Peer(address))
    with suppress(GoneError):  # it has been refused, and said so before we had sent all
        one.send(head + body)


def bodies(address: Address, stack: ExitStack) -> None:
    head = b"POST /channels/x/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 65000\r\n\r\n"
    for _ in range(5_000):
        half(address, stack, head, b" " * 64_000)
    time.sleep(3)


def frames(address: Address, stack: ExitStack) -> None:
    for _ in range(2_000):
        client = stack.enter_context(WsClient(address))
        with suppress(GoneError):
            client.write(frame(TEXT, b" " * 510_000)[:-10_000])


CROWDS: dict[str, Callable[[Address, ExitStack], None]] = {
    "rings": rings,
    "small": small_rings,
    "streams": streams,
    "bodies": bodies,
    "frames": frames,
}


def measure(crowd: Callable[[Address, ExitStack], None], durability: str, after: float) -> dict[str, object]:
    arguments = ["--durability", durability]
    with (
        tempfile.TemporaryDirectory() as directory,
        Server(Path(directory), config=CONFIG, arguments=arguments) as server,
    ):
        canary = Canary(server.address)
        time.sleep(1)
        before = rss(server.pid)
        canary.start()
        with highest(server.pid) as most, ExitStack() as stack:
            began = time.monotonic()
            crowd(server.address, stack)
            took = time.monotonic() - began
        time.sleep(after)
        found: dict[str, object] = {
            "before": before // 1_000_000,
            "height": most[0] // 1_000_000,
            "after": rss(server.pid) // 1_000_000,
            "seconds": round(took, 1),
        }
        return found | {f"canary_{name}": value for name, value in canary.end().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what crowds can make the server hold.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(CROWDS)}; all by default")
    parser.add_argument("--after", type=float, default=60, help="seconds between the crowd's end and the last look")
    parser.add_argument("--durability", choices=("synced", "written", "memory"), default="synced", help="of channels")
    arguments = parser.parse_args()
    if not set(arguments.names) <= set(CROWDS):
        parser.error(f"there are only {', '.join(CROWDS)}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found: dict[str, object] = {}
    for name in arguments.names or CROWDS:
        found[name] = measure(CROWDS[name], arguments.durability, arguments.after)
        print(name, found[name], flush=True)
    RESULTS.write_text(
        json.dumps({"durability": arguments.durability, "after_seconds": arguments.after, **found}) + "\n"
    )


if __name__ == "__main__":
    main()
