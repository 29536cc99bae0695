"""A turn of work: the steps before and after the events of one poll of the plane.

    begin     read the clock: publishes in this turn get this time
    arrivals  input on sockets that the plane polls but does not read itself
    end       follow-up work: what other parts wait for, commit, queue answers, send bytes; unsent bytes follow
              by themselves

Code that works outside of the plane's turns calls ``end`` afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from ext.net.plane import Plane
from ext.wire.acks import AckQueue
from server.node.committer import Committer
from server.node.now import Now

TURN_SECONDS = 0.01  # between looks at deliveries held back by a rate


class Desk(Protocol):
    """Serves connections beside the plane, in its turns."""

    @property
    def due(self) -> bool:
        """There is something to flush."""

    def turn(self) -> None:
        """Read new input."""

    def flush(self) -> bool:
        """Send the answers that are ready; True: another turn is wanted soon."""

    def tick(self) -> None:
        """Called once a second."""

    def statistics(self) -> dict[str, int]:
        """Its own counters."""


class Turn:
    """The turns of one plane."""

    def __init__(self, plane: Plane, now: Now, committers: Sequence[Committer]) -> None:
        self._plane = plane
        self._now = now
        self._committers = committers
        self.touched: list[AckQueue] = []  # queues with answers to send
        # Each checks whether its part has work to do. A part that gets work from elsewhere than a client's message, or
        # from a thread, kicks the plane or ends a turn itself: turns of plain publishes do not look.
        self.looks: list[Callable[[], object]] = []
        self.desk: Desk | None = None  # for publishes over HTTP
        self.more_to_send = trio.Event()
        self._owners_served = False  # since the last look at the other parts, which may have got work from them
        self._held_back = trio.Event()

    @property
    def busy(self) -> bool:
        """Work is under way that makes the plane readable when it is done."""
        for committer in self._committers:  # noqa: SIM110 - in every turn: a generator costs as much as all else here
            if committer.busy:
                return True
        return False

    def begin(self) -> None:
        """Call it before any work."""
        self._now.read()

    def arrivals(self) -> None:
        """Call it in the plane's turn."""
        if self.desk is not None:
            self.desk.turn()

    def end(self, *, whole: bool = True) -> bool:
        """Call it after any work. True: there is more to send; that happens by itself.

        Args:
            whole: the other parts may have work, too. False: sinks have staged publishes, or a thread has stored some.
        """
        if whole or self._owners_served:
            self._owners_served = False
            for look in self.looks:
                look()
        for committer in self._committers:
            if committer.has_work and committer.turn():
                self._plane.kick()  # the next turn begins at once
        if self.touched:
            self._answer()
        if self.desk is not None and self.desk.due and self.desk.flush():
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
                self._owners_served = True
                if queue.owner is not None:
                    queue.owner.answer()
                else:
                    queue.take()  # the owner is gone

    async def look_at_held_back(self) -> None:
        """Look again at deliveries held back by a rate, while there are any. Runs until cancelled."""
        while True:
            await self._held_back.wait()
            self._held_back = trio.Event()
            await trio.sleep(TURN_SECONDS)
            self.end()
