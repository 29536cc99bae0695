"""What clients have sent and nobody has looked at yet: each client's in its order, the clients in turn.

    events of a poll --small, time left--> looked at, one after the other
           | else
           v
    client a: o o o o o o o        one of a, one of b, one of c, one of a ...     until the time of this turn is over
    client b: o
    client c: o o
    client d: O o                  and one that is large, for it takes as long as all the others together

A burst of one client (10,000 ATTACHes are a megabyte) holds up nobody else: who has sent one message waits for one of
each of those before it, and for none that is large. Whoever has something waiting is not read from: no more waits than
was read in one go."""

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

LOOK_SECONDS = 0.002  # of one turn; what is begun is finished

Event = tuple[Any, int, Any]  # client, kind, data: see ext/net/socket.pxd


class Arrivals:
    """Of one plane."""

    def __init__(self) -> None:
        # By whether what comes next of a client is large; whose turn is next comes first.
        self._small: dict[ClientProtocol, deque[tuple[int, Any]]] = {}
        self._large: dict[ClientProtocol, deque[tuple[int, Any]]] = {}

    def __len__(self) -> int:
        """Clients that wait."""
        return len(self._small) + len(self._large)

    def look(self, events: Iterable[Event]) -> None:
        """Pass them on, and what waits from before, as far as there is time."""
        late = time.perf_counter() + LOOK_SECONDS
        wait = bool(self._small)
        for client, kind, data in events:
            if client is None:
                continue  # it was refused, and has nothing to say
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
        """Behind all others."""
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
    except Exception:  # a bug met by one client's message: it is told, nobody else notices
        LOGGER.exception("a connection failed")
        _give_up(client)


def _give_up(client: ClientProtocol) -> None:
    try:
        client.session.fail(PubSubError("internal error", code=50000, status=500))
    except Exception:
        LOGGER.exception("a failed connection could not be sent its error")
