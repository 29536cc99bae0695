"""A client whom nothing that others do may harm: it publishes, and reads what it has published, at an even pace.

with Canary(server.address, tls=context) as canary:      a thread, 50 messages a second
    ...                                                  whatever others do
canary.check()                                           all came, once and in order, and 99 of 100 in time

Beside it a process that only echoes is asked at the same pace: what that takes is the machine's doing and the test's
own, not the server's, and is allowed for."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from tests.harness import Address
from tests.wsclient import Action, WsClient, unique

MOST_SECONDS = 0.05  # for 99 of 100
WAITS = 2  # for the machine, to one of an echo: the server's turn, its writing thread, its turn again, and ours
ECHO = "import os\nwhile data := os.read(0, 64): os.write(1, data)"


class Canary:
    """``options`` are those of WsClient. Leaving it raises what has gone wrong, be it that something was lost."""

    def __init__(self, address: Address, channel: str = "", *, pace_seconds: float = 0.02, **options: Any) -> None:
        self.delays: list[float] = []
        self.echoes: list[float] = []
        self._pace = pace_seconds
        self._failure: BaseException | None = None
        self._done = threading.Event()
        self._client = WsClient(address, **options)
        self._channel = channel or unique("canary")
        self._client.attach(self._channel)
        self._echo = subprocess.Popen(
            [sys.executable, "-S", "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._thread = threading.Thread(target=self._run, name="canary", daemon=True)

    def __enter__(self) -> Self:
        self._ask()  # it takes a moment to begin
        self.echoes.clear()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(30)
        self._client.drop()
        assert self._echo.stdin is not None and self._echo.stdout is not None
        self._echo.stdin.close()
        self._echo.stdout.close()
        self._echo.wait()
        if self._failure is not None and error is None:
            raise self._failure

    def check(self, *, seconds: float = MOST_SECONDS) -> None:
        """99 of 100 were no later than that, and what the machine adds."""
        machine = WAITS * _p99(self.echoes)
        late = [round(1000 * each) for each in sorted(self.delays)[-20:]]
        assert self.in_time(seconds=seconds), f"{late} ms; {1000 * machine:.0f} ms are the machine's"

    def in_time(self, *, seconds: float = MOST_SECONDS) -> bool:
        """The same as an answer: for who tries again, where the machine is too busy to tell."""
        assert self.delays
        return self.p99() < seconds + WAITS * _p99(self.echoes)

    def p99(self) -> float:
        """Seconds."""
        return _p99(self.delays)

    def _ask(self) -> None:
        assert self._echo.stdin is not None and self._echo.stdout is not None
        begun = time.perf_counter()
        self._echo.stdin.write(b"?")
        assert self._echo.stdout.read(1) == b"?"
        self.echoes.append(time.perf_counter() - begun)

    def _run(self) -> None:
        try:
            number = 0
            while not self._done.is_set():
                begun = time.perf_counter()
                self._client.send_messages(self._channel, [{"name": str(number)}])
                [message] = self._client.deliveries(self._channel, 1)
                self.delays.append(time.perf_counter() - begun)
                assert message["name"] == str(number), f"{message['name']} came in place of {number}"
                self._client.expect(Action.ACK)
                self._client.inbox.clear()
                number += 1
                self._ask()
                self._done.wait(self._pace)
        except BaseException as error:
            self._failure = error


def _p99(delays: list[float]) -> float:
    return sorted(delays)[len(delays) * 99 // 100] if delays else 0.0
