"""The entrances of all listeners: they let newcomers in, under the current limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import trio

from engine import limits
from engine.limits import Limits
from ext.net.accept import Entrance
from server import descriptors
from server.node.now import Now
from server.node.turn import Turn
from server.transport.accept import Handlers, run_entrance, run_patience
from server.transport.newcomers import Newcomer, Newcomers

LAST_CALL_SECONDS = 1.0  # at shutdown: a few round trips for newly accepted connections


class Doors:
    """The entrances of a server's listeners."""

    def __init__(self, bounds: Limits, now: Now, turn: Turn, *, tls: bool) -> None:
        self._bounds = bounds
        self._now = now
        self._turn = turn
        self._tls = tls
        self._open: list[tuple[Entrance, Newcomers]] = []

    def open(
        self,
        listener: trio.SocketListener,
        intake: trio.Nursery,
        connections: trio.Nursery,
        handlers: Handlers,
        on_tls: Callable[[Newcomer, int, bytes], None],
    ) -> None:
        """Accept connections on this listener, until ``intake`` is cancelled; they run in ``connections``.

        Args:
            on_tls: takes connections that begin with TLS, instead of ``on_post``.
        """
        entrance = Entrance(
            listener.socket.fileno(),
            max_waiting=descriptors.max_newcomers(),
            head_bytes=self._head_bytes,
            patience_ms=self._bounds.handshake_seconds * 1000,
            crowded_ms=limits.CROWDED_MS,
            max_descriptors=descriptors.max_for_connections(),
        )
        newcomers = Newcomers(entrance, limits.CROWDED_MS / 1000)
        self._open.append((entrance, newcomers))
        if self._tls:
            handlers = replace(handlers, on_post=partial(_hand, on_tls, newcomers))
        intake.start_soon(
            run_entrance,
            entrance,
            handlers,
            connections,
            self._now.steady_ms,
            self._turn.end,
            self._bounds.request_head_bytes,
        )
        intake.start_soon(run_patience, entrance, newcomers, self._now.steady_ms)

    @property
    def _head_bytes(self) -> int:
        return 0 if self._tls else self._bounds.request_head_bytes  # with TLS, no head arrives in the clear

    def limit(self, bounds: Limits) -> None:
        """Apply these limits to later newcomers."""
        self._bounds = bounds
        for entrance, _ in self._open:
            entrance.limit(
                head_bytes=self._head_bytes,
                patience_ms=bounds.handshake_seconds * 1000,
                max_descriptors=descriptors.max_for_connections(),
            )

    async def last_call(self) -> None:
        """Stop accepting, and let accepted connections send their request. Then they can be told to reconnect at once;
        a client cut off in mid-request would assume that there is no server."""
        for entrance, _ in self._open:
            entrance.shut()
        with trio.move_on_after(LAST_CALL_SECONDS):
            while any(len(entrance) or len(newcomers) for entrance, newcomers in self._open):  # noqa: ASYNC110 - no event
                await trio.sleep(0.01)


def _hand(
    on_tls: Callable[[Newcomer, int, bytes], None], newcomers: Newcomers, descriptor: int, received: bytes
) -> bool:
    on_tls(newcomers.arrived(), descriptor, received)
    return True
