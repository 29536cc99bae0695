"""Limits the work in one pass of the loop: the work of tasks for many connections is spread over several passes.

    one pass     | plane | task | task | task |        trio runs every task that is ready, then looks for new events
                           <- PASS_SECONDS ->          later tasks wait for the next pass, in order

A plain WebSocket connection has no task, and the plane distributes its own time in turns (server/node/arrivals.py).
HTTP requests have one task each, and would all run in the same pass: a hundred of 2 ms each are 200 ms for everybody
else. Clients that have had few turns lately go before those that have had many.

WebSockets over TLS do not take turns: each message takes their library four steps or more, one of which would request
a turn. In a trial that slowed down clients that send little more than those that send much."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import trio

PASS_SECONDS = 0.001  # of steps that have asked for their turn
QUIET_SECONDS = 0.003  # the same for clients that have had few turns
EVERY_SECONDS, SAVED_SECONDS = 0.003, 0.05  # a turn in so long is few, and those that were not taken add up for a while
WATCH_SECONDS = 1.0  # from the last turn on: each step of a loop that is watched costs some us
WOKEN_AT_ONCE = 16  # those that come too late all the same wait again, at the front


class LoopPace(trio.abc.Instrument):
    """The turns of one loop; trio reports passes and steps to it, while turns are requested."""

    def __init__(self, kick: Callable[[], None]) -> None:
        """``kick`` wakes the loop, by making something readable that it waits for."""
        self._kick = kick
        self._used = 0.0  # of this pass
        self._begun = 0.0  # this step, since it asked
        self._counts = False  # it has asked for its turn
        self._watches = False
        self._asked = 0.0  # when a turn was last asked for
        self._quiet: deque[trio.Event] = deque()
        self._waiting: deque[trio.Event] = deque()

    def before_io_wait(self, timeout: float) -> None:
        """A pass is over. The next one must not be late, if a task waits for it."""
        if self._quiet or self._waiting:
            self._kick()

    def after_io_wait(self, timeout: float) -> None:
        """A pass begins."""
        self._used = 0.0
        if not self._quiet and not self._waiting and time.perf_counter() - self._asked > WATCH_SECONDS:
            trio.lowlevel.remove_instrument(self)
            self._watches = False
            return
        for _ in range(min(WOKEN_AT_ONCE, len(self._quiet) + len(self._waiting))):
            (self._quiet or self._waiting).popleft().set()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._counts:
            self._counts = False
            self._used += time.perf_counter() - self._begun

    async def turn(self, due: float = 0.0) -> float:
        """Wait until there is time. If cancelled, nothing has happened.

        Args:
            due: the result of the last call for the same connection: until then, it has had many turns.
        """
        now = self._asked = time.perf_counter()
        if not self._watches:
            trio.lowlevel.add_instrument(self)
            self._watches = True
        quiet = due <= now
        room, queue = (QUIET_SECONDS, self._quiet) if quiet else (PASS_SECONDS, self._waiting)
        if self._used > room or queue:
            await self._wait(queue, room)
        if not self._counts:
            self._counts, self._begun = True, time.perf_counter()
        return min(max(due, now - SAVED_SECONDS) + EVERY_SECONDS, now + SAVED_SECONDS)

    async def _wait(self, queue: deque[trio.Event], room: float) -> None:
        event = trio.Event()
        queue.append(event)
        while True:
            try:
                await event.wait()
            except BaseException:
                if not event.is_set():
                    queue.remove(event)
                raise
            if self._used <= room:
                return
            event = trio.Event()
            queue.appendleft(event)
