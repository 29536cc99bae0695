"""A turn of work: the steps before and after the events of one poll of the plane.

    begin     the clock is read: what is published in this turn is of now
    arrivals  what has come to those that the plane listens to, and does not read itself
    end       what the work has left to do for others: what needs no journal is committed, answers are queued, bytes
              leave; what does not leave at once goes on by itself

Whoever works outside of the plane's turns calls ``end`` afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from ext.net.plane import Plane
from ext.wire.acks import AckQueue
from server.node.committer import Committer
from server.node.now import Now

TURN_SECONDS = 0.01  # between looks at who has waited long enough for its rate


class Desk(Protocol):
    """Serves connections beside the plane, in its turns."""

    def turn(self) -> None:
        """Read what has come."""

    def flush(self) -> bool:
        """Answer what can be answered; True: another turn is wanted soon."""

    def tick(self) -> None:
        """Once a second."""

    def statistics(self) -> dict[str, int]:
        """What it has to tell about itself."""


class Turn:
    """Of one plane."""

    def __init__(self, plane: Plane, now: Now, committers: Sequence[Committer]) -> None:
        self._plane = plane
        self._now = now
        self._committers = committers
        self.touched: list[AckQueue] = []  # that have answers to give
        self.looks: list[Callable[[], object]] = []  # at whether there is something to be done for one of the parts
        self.desk: Desk | None = None  # of those that publish over HTTP
        self.more_to_send = trio.Event()
        self._held_back = trio.Event()

    @property
    def busy(self) -> bool:
        """Something is under way that makes the plane readable when it is done."""
        return any(committer.busy for committer in self._committers)

    def begin(self) -> None:
        """Before any work."""
        self._now.read()

    def arrivals(self) -> None:
        """In the plane's turn."""
        if self.desk is not None:
            self.desk.turn()

    def end(self) -> bool:
        """After any work. True: there is more to send; it goes on by itself."""
        for look in self.looks:
            look()
        for committer in self._committers:
            if committer.turn():
                self._plane.kick()  # the next turn begins at once
        self._answer()
        if self.desk is not None and self.desk.flush():
            self._plane.kick()
        more = self._plane.flush()
        if self._plane.holding:
            self._held_back.set()
        if more:
            self.more_to_send.set()
            self.more_to_send = trio.Event()
        return more

    def _answer(self) -> None:
        while self.touched:
            for queue in self._plane.answer(self.touched):
                if queue.owner is not None:
                    queue.owner.answer()
                else:
                    queue.take()  # there is nobody left to tell

    async def look_at_held_back(self) -> None:
        """Have those looked at whose deliveries wait because of a rate, while there are any. Until cancelled."""
        while True:
            await self._held_back.wait()
            self._held_back = trio.Event()
            await trio.sleep(TURN_SECONDS)
            self.end()
