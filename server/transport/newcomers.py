"""Accepted connections with a task (TLS) whose request has not arrived yet; the entrance holds those without a task.

entrance --first bytes--> Newcomer: handshake, head of the first request --> served, no longer a newcomer
both together are at most ``max_waiting``; at that limit, newcomers that keep us waiting for long are closed"""

from __future__ import annotations

from types import TracebackType

import trio

from ext.net.accept import Entrance


class Newcomers:
    """The newcomers of one entrance."""

    def __init__(self, entrance: Entrance, crowded_seconds: float) -> None:
        self._entrance = entrance
        self._crowded_seconds = crowded_seconds
        self._here: set[Newcomer] = set()

    def __len__(self) -> int:
        return len(self._here)

    def arrived(self) -> Newcomer:
        """The entrance has passed on a connection; it is a newcomer until its ``leave``."""
        newcomer = Newcomer(self)
        self._here.add(newcomer)
        return newcomer

    def left(self, newcomer: Newcomer) -> None:
        if newcomer in self._here:
            self._here.remove(newcomer)
            self._entrance.release()

    def expire(self) -> None:
        """At the limit, close connections that have kept us waiting too long."""
        if self._entrance.crowded:
            now = trio.current_time()
            for newcomer in self._here:
                if newcomer.waited(now) >= self._crowded_seconds:
                    newcomer.patience.cancel()


class Newcomer:
    """A newcomer. Use ``with newcomer`` while waiting for the peer: only that time counts, because we are slow in a
    crowd."""

    __slots__ = ("_asked_at", "_newcomers", "_waited", "patience")

    def __init__(self, newcomers: Newcomers) -> None:
        self.patience = trio.CancelScope()
        self._newcomers: Newcomers | None = newcomers
        self._waited = 0.0
        self._asked_at: float | None = None

    def waited(self, now: float) -> float:
        """Total seconds spent waiting for the peer."""
        return self._waited + (now - self._asked_at if self._asked_at is not None else 0.0)

    def leave(self) -> None:
        """It is no longer a newcomer. Idempotent."""
        if self._newcomers is not None:
            self._newcomers.left(self)
            self._newcomers = None

    def __enter__(self) -> None:
        self._asked_at = trio.current_time()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waited = self.waited(trio.current_time())
        self._asked_at = None
