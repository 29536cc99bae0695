"""Health: whether the server works, and how much it holds at the moment. For ``GET /health``."""

from __future__ import annotations

from collections.abc import Sequence

from engine.hub import Hub
from server.http.bodies import Bodies
from server.node.clients import Clients
from server.node.committer import Committer, failure_of
from server.node.now import Now
from server.node.readwatch import ReadWatch
from server.node.turn import Turn


class Vitals:
    """The health of one server."""

    def __init__(
        self,
        hub: Hub,
        reads: ReadWatch,
        committers: Sequence[Committer],
        clients: Clients,
        bodies: Bodies,
        turn: Turn,
        now: Now,
    ) -> None:
        self._hub = hub
        self._reads = reads
        self._committers = committers
        self._clients = clients
        self._bodies = bodies
        self._turn = turn
        self._now = now

    @property
    def uptime_seconds(self) -> float:
        return (self._now.steady_ms() - self._now.started_ms) / 1000

    def complaints(self) -> list[str]:
        """The promises that the server cannot keep at the moment; empty when healthy."""
        told = []
        failure = failure_of(self._committers)
        if failure is not None:
            told.append(f"publishes are refused: {failure}")
        in_doubt = sum(committer.in_doubt for committer in self._committers)
        if in_doubt:
            told.append(f"the outcome of {in_doubt} publishes is unknown")
        if self._reads.reason is not None:
            told.append(f"stored messages cannot be read: {self._reads.reason}")
        if self._clients.draining:
            told.append("the server is shutting down")
        return told

    def counts(self) -> dict[str, object]:
        """Current counts of everything that matters."""
        budget, room = self._hub.budget, self._bodies.room
        found: dict[str, object] = {
            "connections": len(self._clients),
            "channels": len(self._hub.channels),
            "batches": sum(committer.batches for committer in self._committers),
            "failedBatches": sum(committer.failures for committer in self._committers),
            "ringBytes": budget.held,
            "ringBytesMost": budget.most,
            "partBytes": self._bodies.held,
            "partBytesMost": room.max_bytes,
            "partRefusals": room.refused,
        }
        if self._turn.desk is not None:
            found |= self._turn.desk.statistics()
        found["clock"] = self._now.clock.statistics()
        return found
