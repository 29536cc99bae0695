"""Runs the plane under trio: waits for its epoll descriptor, passes its events on, flushes.

wait_readable -> poll -> each event to its client -> end of turn (committer, answers, a slice of flush) -> poll ..."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import trio

from engine.errors import PubSubError
from ext.plane import BEHIND, BINARY, DRAINED, FAILED, GONE, TEXT, VIOLATION, Plane
from server.protocol import ClientProtocol

LOGGER = logging.getLogger("unbroken.plane")
# A pass through trio costs some 50 us, a poll 1 us. So once there is work we stay, and wait for more in the poll
# itself: so long in all before everybody else has a turn,
STAY_SECONDS = 0.001
# and so long for the next to come (an answer to ours from another core takes some 50), or for the writing thread.
WAIT_US = 100
WAIT_BUSY_US = 500
TICK_SECONDS = 1.0  # heartbeats and timeouts are in tens of seconds
TICK_PARTS = 5  # of the sockets, one after the other in that time: 10,000 heartbeats at once take some 50 ms


class Turns(Protocol):
    """What is done around the events of one poll."""

    def begin_turn(self) -> None: ...

    def arrivals(self) -> None:
        """See to those whose bytes the plane does not read, but listens to."""

    def end_of_turn(self) -> bool:
        """True: there is more to send, so that no time is to be lost."""

    @property
    def busy(self) -> bool:
        """Something is under way that makes the plane readable when it is done."""


async def run_plane(plane: Plane, turns: Turns, clock_ms: Callable[[], int]) -> None:
    """Until cancelled."""
    while True:
        await trio.lowlevel.wait_readable(plane.fd)
        leave = time.perf_counter() + STAY_SECONDS
        wait_us, busy = 0, False
        while True:
            turns.begin_turn()
            for client, kind, data in plane.poll(clock_ms(), wait_us=wait_us, gather=busy):
                if client is None:
                    continue  # it was refused, and has nothing to say
                try:
                    _pass_on(client, kind, data)
                except Exception:  # a bug met by one client's message: it is told, nobody else notices
                    LOGGER.exception("a connection failed")
                    _give_up(client)
            turns.arrivals()
            nothing = plane.woken <= 0
            more = turns.end_of_turn()
            if (nothing and not more) or time.perf_counter() >= leave:
                break
            busy = turns.busy and not more  # then what arrives has to wait in any case, for the writing thread
            wait_us = 0 if more else WAIT_BUSY_US if busy else WAIT_US


def _give_up(client: ClientProtocol) -> None:
    try:
        client.fail(PubSubError("internal error", code=50000, status=500))
    except Exception:
        LOGGER.exception("a failed connection could not be told so")


async def run_flush(plane: Plane, wanted: Callable[[], trio.Event]) -> None:
    """Send on what one slice has left over, giving others a turn between two slices. Until cancelled."""
    while True:
        await wanted().wait()
        while plane.flush():
            await trio.lowlevel.checkpoint()


async def run_tick(plane: Plane, turns: Turns, clock_ms: Callable[[], int], others: Callable[[], None]) -> None:
    """Once a second, whatever is due by time: for each socket, and then ``others``. Until cancelled."""
    while True:
        for _ in range(TICK_PARTS):
            await trio.sleep(TICK_SECONDS / TICK_PARTS)
            if plane.tick(clock_ms(), parts=TICK_PARTS):
                turns.end_of_turn()
        others()


def _pass_on(client: ClientProtocol, kind: int, data: object) -> None:
    if kind == TEXT:
        client.receive(data, 0)  # type: ignore[arg-type]  # bytes, with these two kinds
    elif kind == BINARY:
        client.receive(data, 1)  # type: ignore[arg-type]
    elif kind == GONE:
        client.gone()
    elif kind == VIOLATION:
        client.violated(data)  # type: ignore[arg-type]  # a close code
    elif kind == BEHIND:
        client.fell_behind(data)
    elif kind == FAILED:
        raise data  # type: ignore[misc]  # an exception
    elif kind == DRAINED and client.drained is not None:
        drained, client.drained = client.drained, None
        drained()
