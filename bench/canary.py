"""A client that asks for little, beside those that ask for much: python -m bench.canary HOST PORT [--tls]

    publish a number, wait until it is delivered, ten milliseconds after the one before
    delay = delivered - due: a number that is late makes those behind it late, and so they are counted

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

from tests.leanclient import LeanClient

PERIOD_SECONDS = 0.01


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


def sing(client: LeanClient, channel: str, over: threading.Event) -> list[float]:
    """The delays, in seconds. Raises: AssertionError, when one is missing, repeated or out of order."""
    delays: list[float] = []
    begun = time.monotonic()
    due = begun
    while not over.is_set():
        time.sleep(max(0.0, due - time.monotonic()))
        client.publish(channel, str(len(delays)))
        delivered = client.expect(15)
        assert [message["data"] for message in delivered["messages"]] == [str(len(delays))], delivered
        delays.append(time.monotonic() - due)
        due += PERIOD_SECONDS
    return delays


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

    with LeanClient((arguments.host, arguments.port), tls=unverified() if arguments.tls else None) as client:
        channel = f"canary-{time.monotonic_ns()}"
        client.send({"action": 10, "channel": channel})
        client.expect(11)
        print("ready", flush=True)
        threading.Thread(target=wait, daemon=True).start()
        print(json.dumps(asdict(delays_of(sing(client, channel, over)))))


if __name__ == "__main__":
    main()
