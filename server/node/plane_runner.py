"""Runs the plane under trio: waits for its epoll descriptor, passes its events on, flushes.

wait_readable -> poll -> each event to its client -> end of turn (committer, answers, a slice of flush) -> poll ..."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from ext.net.plane import Plane
from server.node.arrivals import Arrivals
from server.node.turn import Turn

# A pass through trio costs some 50 us, a poll 1 us. So once there is work we stay, and wait for more in the poll
# itself: so long in all before everybody else has a turn,
STAY_SECONDS = 0.001
# and so long for the next to come (an answer to ours from another core takes some 50), or for the writing thread.
WAIT_US = 100
WAIT_BUSY_US = 500
TICK_SECONDS = 1.0  # heartbeats and timeouts are in tens of seconds
TICK_PARTS = 5  # of the sockets, one after the other in that time: 10,000 heartbeats at once take some 50 ms


async def run_plane(plane: Plane, turn: Turn, clock_ms: Callable[[], int]) -> None:
    """Until cancelled."""
    arrivals = Arrivals()
    while True:
        await trio.lowlevel.wait_readable(plane.fd)
        leave = time.perf_counter() + STAY_SECONDS
        wait_us, busy = 0, False
        while True:
            turn.begin()
            arrivals.look(plane.poll(clock_ms(), wait_us=wait_us, gather=busy))
            plane.crowded = len(arrivals) > 0
            turn.arrivals()
            nothing = plane.woken <= 0
            more = turn.end()
            if plane.crowded:
                plane.kick()  # the next turn begins as soon as all others have had theirs
                break
            if (nothing and not more) or time.perf_counter() >= leave:
                break
            busy = turn.busy and not more  # then what arrives has to wait in any case, for the writing thread
            wait_us = 0 if more else WAIT_BUSY_US if busy else WAIT_US


async def run_flush(plane: Plane, turn: Turn) -> None:
    """Send on what one slice has left over, giving others a turn between two slices. Until cancelled."""
    while True:
        await turn.more_to_send.wait()
        while plane.flush():
            await trio.lowlevel.checkpoint()


async def run_tick(plane: Plane, turn: Turn, clock_ms: Callable[[], int], others: Callable[[], None]) -> None:
    """Once a second, whatever is due by time: for each socket, and then ``others``. Until cancelled."""
    while True:
        for _ in range(TICK_PARTS):
            await trio.sleep(TICK_SECONDS / TICK_PARTS)
            if plane.tick(clock_ms(), parts=TICK_PARTS):
                turn.end()
        others()
