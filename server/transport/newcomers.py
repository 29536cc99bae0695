"""Who has been let in and has not said what he wants: those of them who have tasks (TLS), beside the entrance's own.

entrance --first bytes--> Newcomer: handshake, head of the first request --> served, and no newcomer any more
both together are at most ``max_waiting``; while they are, who keeps us waiting for long is sent away"""

from __future__ import annotations

from types import TracebackType

import trio

from ext.net.accept import Entrance


class Newcomers:
    """Those of one entrance."""

    def __init__(self, entrance: Entrance, crowded_seconds: float) -> None:
        self._entrance = entrance
        self._crowded_seconds = crowded_seconds
        self._here: set[Newcomer] = set()

    def __len__(self) -> int:
        return len(self._here)

    def arrived(self) -> Newcomer:
        """The entrance has handed one up; it is a newcomer until its ``leave``."""
        newcomer = Newcomer(self)
        self._here.add(newcomer)
        return newcomer

    def left(self, newcomer: Newcomer) -> None:
        if newcomer in self._here:
            self._here.remove(newcomer)
            self._entrance.release()

    def expire(self) -> None:
        """While there is a crowd: send those away for whom we have waited too long."""
        if self._entrance.crowded:
            now = trio.current_time()
            for newcomer in self._here:
                if newcomer.waited(now) >= self._crowded_seconds:
                    newcomer.patience.cancel()


class Newcomer:
    """One of them. ``with newcomer`` while it is the peer's move: only that counts, for we are slow in a crowd."""

    __slots__ = ("_asked_at", "_newcomers", "_waited", "patience")

    def __init__(self, newcomers: Newcomers) -> None:
        self.patience = trio.CancelScope()
        self._newcomers: Newcomers | None = newcomers
        self._waited = 0.0
        self._asked_at: float | None = None

    def waited(self, now: float) -> float:
        """Seconds for which it has kept us waiting, in all."""
        return self._waited + (now - self._asked_at if self._asked_at is not None else 0.0)

    def leave(self) -> None:
        """It is one no more. Calling it again does nothing."""
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
