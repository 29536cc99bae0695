"""A client that asks for little, beside those that ask for much: python -m bench.canary HOST PORT [--tls]

    one connection publishes a number every thirty milliseconds, whatever becomes of those before
    another one subscribes: delay = delivered - due

It lives in a process of its own, for its clock must not wait for what the others do in theirs. It says ``ready``, goes
on until its standard input ends, and then prints what it has found as JSON. ``Canary`` starts and ends one."""

from __future__ import annotations

import argparse
import json
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from tests.wsclient import WsClient

PERIOD_SECONDS = 0.03


@dataclass(frozen=True)
class Delays:
    """In ms; ``messages`` were sent, and all came back once and in order, or there is no result."""

    messages: int
    median: float
    p99: float
    longest: float

    def __str__(self) -> str:
        return f"median {self.median:.1f}, p99 {self.p99:.1f}, longest {self.longest:.1f} ms of {self.messages}"


class Canary:
    """One process; a context manager. ``delays`` after its end."""

    def __init__(self, address: tuple[str, int], *, tls: bool = False) -> None:
        command = [sys.executable, "-m", "bench.canary", address[0], str(address[1])]
        self._process = subprocess.Popen(
            command + ["--tls"] * tls, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        assert ready == "ready\n", ready

    def stop(self) -> Delays:
        said, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, said
        return Delays(**json.loads(said))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def unverified() -> ssl.SSLContext:
    """Whose certificate it is does not matter here."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def sing(client: WsClient, channel: str, over: threading.Event, dues: list[float]) -> None:
    """Publish until it is over; ``dues`` gets the time for each."""
    due = time.monotonic()
    while not over.is_set():
        time.sleep(max(0.0, due - time.monotonic()))
        dues.append(due)
        client.pour(channel, str(len(dues) - 1))
        due += PERIOD_SECONDS
    client.pour(channel, "the end")


def listen(client: WsClient, dues: list[float]) -> list[float]:
    """The delays, in seconds. Raises: AssertionError, when one is missing, repeated or out of order."""
    delays: list[float] = []
    while True:
        for message in client.skip_to(15)["messages"]:
            if message["data"] == "the end":
                assert len(delays) == len(dues), (len(delays), len(dues))
                return delays
            assert message["data"] == str(len(delays)), (message, len(delays))
            delays.append(time.monotonic() - dues[len(delays)])


def delays_of(found: list[float]) -> Delays:
    ordered = sorted(1000 * delay for delay in found)

    def share(of: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * of))], 2)

    return Delays(len(ordered), share(0.5), share(0.99), round(ordered[-1], 2))


def main() -> None:
    parser = argparse.ArgumentParser(description="Publishes a little, and measures how long it takes.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--tls", action="store_true")
    arguments = parser.parse_args()
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    address, tls = (arguments.host, arguments.port), unverified() if arguments.tls else None
    with WsClient(address, tls=tls) as subscriber, WsClient(address, tls=tls) as client:
        channel, dues = f"canary-{time.monotonic_ns()}", list[float]()
        subscriber.attach(channel)
        client.publish(channel, {"data": "first"})
        subscriber.skip_to(15)
        print("ready", flush=True)
        threading.Thread(target=wait, daemon=True).start()
        threading.Thread(target=sing, args=(client, channel, over, dues), daemon=True).start()
        print(json.dumps(asdict(delays_of(listen(subscriber, dues)))))


if __name__ == "__main__":
    main()
