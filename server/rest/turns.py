"""Admits a limited number of operations at a time; waiting ones are admitted in turns of their clients.

    waiting   a: o o o o o o o        in: one of a, one of b, one of a ...
              b: o

A hundred requests of one client do not make the single request of another wait for all of them. A client that has left
by the time its turn comes is skipped: nobody needs the result."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

import trio

from engine.errors import PubSubError


class Turns:
    """Admits ``most`` operations at a time."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: dict[Hashable, deque[trio.Event]] = {}  # whose turn is next comes first

    def __len__(self) -> int:
        """The number of waiting operations."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def of(self, whose: Hashable, has_left: Callable[[], bool] = lambda: False) -> AsyncIterator[None]:
        """A place for one operation of a client. Raises: PubSubError, if the client left while it waited."""
        if self._free and not self._waiting:
            self._free -= 1
        else:
            await self._wait(whose)  # the place is handed on to it
            if has_left():
                self._leave()
                raise PubSubError("the client left before its turn came", code=80003, status=503)
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, whose: Hashable) -> None:
        turn = trio.Event()
        mine = self._waiting.setdefault(whose, deque())
        mine.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self._leave()
            else:
                mine.remove(turn)
                if not mine:
                    del self._waiting[whose]
            raise

    def _leave(self) -> None:
        """Pass the place on."""
        if not self._waiting:
            self._free += 1
            return
        whose = next(iter(self._waiting))
        waiting = self._waiting.pop(whose)
        waiting.popleft().set()
        if waiting:
            self._waiting[whose] = waiting  # behind all others
