"""So much work in one pass of the loop: what tasks do on behalf of many connections is spread over passes.

    one pass     | plane | task | task | task |        trio runs every task that can go on, then looks for what is new
                           <- PASS_SECONDS ->          those who are later than that wait for the next pass, in order

A plain connection has no task, and the plane gives its own time out in turns (server/arrivals.py). Connections that
have one (TLS, HTTP) would all go on in the same pass: a hundred requests of 2 ms each are 200 ms for everybody else.
Who has been quiet lately goes before those who have not: a message now and then does not wait behind bursts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import trio

PASS_SECONDS = 0.002
QUIET_SECONDS = 0.05
WOKEN_AT_ONCE = 8  # those that come too late all the same wait again, at the front


class Pace(trio.abc.Instrument):
    """Of one loop; trio tells it when a pass begins. Without that, everybody may go on at once."""

    def __init__(self, kick: Callable[[], None]) -> None:
        """``kick`` makes something the loop waits for readable."""
        self._kick = kick
        self._until = float("inf")
        self._quiet: deque[trio.Event] = deque()
        self._waiting: deque[trio.Event] = deque()

    def before_io_wait(self, timeout: float) -> None:
        """The one before it is over: it must not wait long for what is new, if somebody waits for the next."""
        if self._quiet or self._waiting:
            self._kick()

    def after_io_wait(self, timeout: float) -> None:
        """A pass begins."""
        self._until = time.perf_counter() + PASS_SECONDS
        for _ in range(min(WOKEN_AT_ONCE, len(self._quiet) + len(self._waiting))):
            (self._quiet or self._waiting).popleft().set()

    async def turn(self, last: float = 0.0) -> float:
        """Go on when there is time; when that was, for the next call's ``last``. If cancelled, nothing has happened."""
        now = time.perf_counter()
        if now <= self._until and not self._quiet and not self._waiting:
            return now
        queue = self._quiet if now - last > QUIET_SECONDS else self._waiting
        again = False
        while True:
            event = trio.Event()
            if again:
                queue.appendleft(event)
            else:
                queue.append(event)
            try:
                await event.wait()
            except BaseException:
                if not event.is_set():
                    queue.remove(event)
                raise
            now = time.perf_counter()
            if now <= self._until:
                return now
            again = True
