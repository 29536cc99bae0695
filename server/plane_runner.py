"""Runs the plane under trio: waits for its epoll descriptor, passes its events on, flushes.

wait_readable -> poll -> each event to its client -> end of turn (answers, the committer) -> flush, in slices"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from engine.errors import PubSubError
from ext.plane import BEHIND, BINARY, DRAINED, FAILED, GONE, TEXT, VIOLATION, Plane
from server.protocol import ClientProtocol

LOGGER = logging.getLogger("unbroken.plane")
# A pass through trio costs some 50 us, a poll that finds nothing 1 us: so what trickles in while we work is taken
# along, a few times; then the committer and everybody else have their turn.
POLLS = 4
TICK_SECONDS = 1.0  # heartbeats and timeouts are in tens of seconds


async def run_plane(plane: Plane, clock_ms: Callable[[], int], end_of_turn: Callable[[], None]) -> None:
    """Until cancelled."""
    while True:
        await trio.lowlevel.wait_readable(plane.fd)
        for _ in range(POLLS):
            events = plane.poll(clock_ms())
            if not events:
                break
            for client, kind, data in events:
                if client is None:
                    continue  # it was refused, and has nothing to say
                try:
                    _pass_on(client, kind, data)
                except Exception:  # a bug met by one client's message: it is told, nobody else notices
                    LOGGER.exception("a connection failed")
                    _give_up(client)
        end_of_turn()


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


async def run_tick(plane: Plane, clock_ms: Callable[[], int], others: Callable[[], None]) -> None:
    """Once a second, whatever is due by time. Until cancelled."""
    while True:
        await trio.sleep(TICK_SECONDS)
        plane.tick(clock_ms())
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
