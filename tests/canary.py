"""A client that must not notice what others do: it publishes and reads all the while, and says how long that took.

with Canary(server.address, tls=context) as canary:      its own thread, 50 messages a second
    ...                                                  whatever others do
canary.check()                                           all of them, once and in order, in time"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

from tests.harness import Address
from tests.rawclient import RawClient

RATE = 50  # messages in a second
MOST_SECONDS = 0.05  # for 99 of 100


class Canary:
    """``options`` are those of RawClient."""

    def __init__(self, address: Address, channel: str = "canary", **options: Any) -> None:
        self.delays: list[float] = []
        self._channel = channel
        self._client = RawClient(address, **options)
        self._client.attach(channel)
        self._heard: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        number, due = 0, time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            began = time.monotonic()
            self._client.send_messages(self._channel, [{"data": str(number)}])
            self._heard += [message["data"] for message in self._client.deliveries(self._channel, 1)]
            self.delays.append(time.monotonic() - began)
            self._client.inbox.clear()
            number, due = number + 1, max(due + 1 / RATE, time.monotonic())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._client.drop()

    def check(self, *, seconds: float = MOST_SECONDS) -> None:
        """It got all that it said, once and in order, and 99 of 100 in time."""
        assert self._heard == [str(number) for number in range(len(self._heard))]
        assert len(self.delays) == len(self._heard) > 0
        delays = sorted(self.delays)
        assert delays[int(len(delays) * 0.99) - 1] < seconds, [round(1000 * each) for each in delays[-20:]]
