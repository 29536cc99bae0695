"""Client messages waiting to be processed: in order for each client, round-robin across clients.

    events of a poll --small, time left--> processed, one after the other
           | else
           v
    client a: o o o o o o o        one of a, one of b, one of c, one of a ...     until this turn's time is used up
    client b: o
    client c: o o
    client d: O o                  and one large message, because it takes as long as all the others together

A burst of one client (10,000 ATTACHes are a megabyte) delays no other client much: a single message waits for one
message of each client before it, and for no large one. Reading from a client pauses while it has messages waiting, so
at most one read's worth waits."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from engine.errors import PubSubError
from engine.limits import LARGE_INPUT_BYTES
from ext.net.plane import BEHIND, BINARY, DRAINED, FAILED, GONE, TEXT, VIOLATION
from server.realtime.protocol import ClientProtocol

LOGGER = logging.getLogger("unbroken.plane")

LOOK_SECONDS = 0.002  # per turn; a message under way is finished

Event = tuple[Any, int, Any]  # client, kind, data: see ext/net/socket.pxd


class Arrivals:
    """The arrivals of one plane."""

    def __init__(self) -> None:
        # Clients by whether their next message is large; each dict is in order of turns.
        self._small: dict[ClientProtocol, deque[tuple[int, Any]]] = {}
        self._large: dict[ClientProtocol, deque[tuple[int, Any]]] = {}

    def __len__(self) -> int:
        """The number of waiting clients."""
        return len(self._small) + len(self._large)

    def look(self, events: Iterable[Event]) -> None:
        """Pass these events on, and the waiting ones, as far as time allows."""
        late = time.perf_counter() + LOOK_SECONDS
        wait = bool(self._small)
        for client, kind, data in events:
            if client is None:
                continue  # a refused client; ignore it
            if wait or client in self._large or _is_large(kind, data):
                self._wait(client, kind, data)
            else:
                _pass_on(client, kind, data)
                wait = time.perf_counter() > late
        while self._small and time.perf_counter() <= late:
            self._next(self._small)
        if self._large:
            self._next(self._large)

    def _wait(self, client: ClientProtocol, kind: int, data: Any) -> None:
        waiting = self._small.get(client) or self._large.get(client)
        if waiting is None:
            client.session.transport.stall(True)  # type: ignore[attr-defined]  # all of a plane's are its sockets
            self._stand(client, deque([(kind, data)]))
        else:
            waiting.append((kind, data))

    def _stand(self, client: ClientProtocol, waiting: deque[tuple[int, Any]]) -> None:
        """Put it at the end of the line."""
        (self._large if _is_large(*waiting[0]) else self._small)[client] = waiting

    def _next(self, clients: dict[ClientProtocol, deque[tuple[int, Any]]]) -> None:
        client = next(iter(clients))
        waiting = clients.pop(client)
        _pass_on(client, *waiting.popleft())
        if waiting:
            self._stand(client, waiting)
        else:
            client.session.transport.stall(False)  # type: ignore[attr-defined]


def _is_large(kind: int, data: Any) -> bool:
    return kind in (TEXT, BINARY) and len(data) >= LARGE_INPUT_BYTES


def _pass_on(client: ClientProtocol, kind: int, data: Any) -> None:
    try:
        if kind == TEXT:
            client.receive(data, 0)
        elif kind == BINARY:
            client.receive(data, 1)
        elif kind == GONE:
            client.session.gone()
        elif kind == VIOLATION:
            client.violated(data)
        elif kind == BEHIND:
            client.attaching.fell_behind(data)
        elif kind == FAILED:
            raise data
        elif kind == DRAINED:
            client.attaching.all_taken()
    except Exception:  # a bug hit by one client's message: end that connection, others are unaffected
        LOGGER.exception("a connection failed")
        _give_up(client)


def _give_up(client: ClientProtocol) -> None:
    try:
        client.session.fail(PubSubError("internal error", code=50000, status=500))
    except Exception:
        LOGGER.exception("a failed connection could not be sent its error")
