"""Runs the plane under trio: waits for its epoll descriptor, passes its events on, flushes.

wait_readable -> poll -> each event to its client -> end of turn (committer, answers, a slice of flush) -> poll ..."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from ext.net.plane import Plane
from server.node.arrivals import Arrivals, Event
from server.node.turn import Turn

# A pass through trio costs about 50 us, a poll 1 us. So once there is work, we stay and wait for more in the poll
# itself: up to this long in all before other tasks have a turn,
STAY_SECONDS = 0.001
# and up to this long for the next event (a reply to ours from another core takes about 50 us), or for the writing
# thread.
WAIT_US = 100
WAIT_BUSY_US = 500
TICK_SECONDS = 1.0  # heartbeats and timeouts are in tens of seconds
TICK_PARTS = 5  # groups of sockets, spread over that time: 10,000 heartbeats at once take about 50 ms


async def run_plane(plane: Plane, turn: Turn, clock_ms: Callable[[], int]) -> None:
    """Runs until cancelled."""
    arrivals = Arrivals()
    while True:
        await trio.lowlevel.wait_readable(plane.fd)
        leave = time.perf_counter() + STAY_SECONDS
        wait_us, busy = 0, False
        while True:
            turn.begin()
            more = _turn(plane, turn, arrivals, plane.poll(clock_ms(), wait_us=wait_us, gather=busy))
            nothing = plane.woken <= 0
            if plane.crowded:
                plane.kick()  # the next turn begins after all other tasks have had theirs
                break
            if (nothing and not more) or time.perf_counter() >= leave:
                break
            busy = turn.busy and not more  # then new arrivals wait for the writing thread in any case
            wait_us = 0 if more else WAIT_BUSY_US if busy else WAIT_US


def _turn(plane: Plane, turn: Turn, arrivals: Arrivals, events: list[Event]) -> bool:
    """The rest of a turn, after the poll. True: there is more to send.

    Most turns only stage what sinks have taken, or commit what has been stored: the other parts have nothing to do."""
    whole = bool(events) or plane.kicked or plane.heard or plane.crowded
    if whole:
        arrivals.look(events)
        plane.crowded = len(arrivals) > 0
        turn.arrivals()
    return turn.end(whole=whole)


async def run_flush(plane: Plane, turn: Turn) -> None:
    """Send the rest after a slice, with a turn for other tasks between slices. Runs until cancelled."""
    while True:
        await turn.more_to_send.wait()
        while plane.flush():
            await trio.lowlevel.checkpoint()


async def run_tick(plane: Plane, turn: Turn, clock_ms: Callable[[], int], others: Callable[[], None]) -> None:
    """Do time-based work once a second: for each socket, then ``others``. Runs until cancelled."""
    while True:
        for _ in range(TICK_PARTS):
            await trio.sleep(TICK_SECONDS / TICK_PARTS)
            if plane.tick(clock_ms(), parts=TICK_PARTS):
                turn.end()
        others()
