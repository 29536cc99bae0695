"""One running server: the engine's parts, connected to clocks, threads and sockets.

    listener --websocket--> opening --> plane ---> ClientProtocol --> hub, sequencer
             --http-------> Rest ----------------------^                 |
                                                                    committer --> journal

The parts are made, started and stopped here. Each part is passed to the parts that need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from engine import limits
from engine.allowance import Allowances
from engine.auth.authenticator import Authenticator
from engine.auth.revocation import Revocations
from engine.connection import Connections
from engine.errors import PubSubError
from engine.hub import Hub
from engine.journal.port import Journal
from engine.settings import Namespace, Settings
from engine.statistics import Statistics
from ext.net.plane import Plane
from server.http.bodies import Bodies
from server.http.keyguard import KeyGuard
from server.http.refusals import Refusals
from server.node.clients import Clients
from server.node.clock import Clock
from server.node.committer import Committer
from server.node.counting import Counting
from server.node.disk import DiskWatch
from server.node.lifetimes import Lifetimes
from server.node.now import Now
from server.node.plane_runner import run_flush, run_plane, run_tick
from server.node.policies import Policies
from server.node.readwatch import ReadWatch
from server.node.recalling import Recalling
from server.node.replay import Replay
from server.node.turn import Turn
from server.node.upkeep import Upkeep
from server.node.vitals import Vitals
from server.node.waking import Waking
from server.pace import LoopPace


class Node:
    """All parts of one server process; ``run`` in a nursery keeps it going.

    ``namespaces``: those that apps were made with, by app and then by their id.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        authenticator: Authenticator,
        connections: Connections,
        clock: Clock,
        *,
        dedup_key: bytes,
        note_alive: Callable[[int], None],
        revocations: Revocations,
        namespaces: Mapping[str, Mapping[str, Namespace]],
    ) -> None:
        bounds = settings.limits
        self.policies = Policies(settings, namespaces)
        self.hub = Hub(settings, journal, clock.log, dedup_key, self.policies.of, self.policies.quota_of)
        self.policies.partition_for = self.hub.partition_for
        clock.steady.join(self.hub.memory.clock)
        self.now = Now(clock, self.hub.common)
        self.bodies = Bodies(bounds.within(limits.MEMORY_UNKNOWN).bodies_bytes)
        self.plane = _plane(bounds, self.bodies)
        self.pace = LoopPace(self.plane.kick)
        self._committers = _committers(self.hub, self.plane, bounds)
        self.turn = turn = Turn(self.plane, self.now, self._committers)
        self._waking = Waking(self.hub, self.now.older_than, turn.begin, turn.end, self.pace)
        self._recalling = Recalling(self.hub, turn.end, self.now.turn_wall_ms)
        self.replay = Replay(self.now.wall_ms, turn.end, self.plane.kick, self.now.older_than)
        turn.looks += [self._waking.look, self._recalling.look, self.replay.take]
        self.keyguard = KeyGuard(anywhere=_keys_anywhere(settings))
        self.refusals = Refusals(authenticator.key_named)
        self.allowances = Allowances(settings, authenticator.keyring)
        self.lifetimes = Lifetimes(revocations, self.now.wall_ms, turn.end)
        self.clients = Clients(
            self.hub,
            self.now,
            authenticator,
            revocations,
            connections,
            self.allowances,
            self.lifetimes,
            turn.touched,
            bounds,
        )
        # Fixtures in development mode lie years back.
        self.counting = Counting(Statistics(journal, self.hub.meters, prune=not settings.dev), self.now)
        self.reads = ReadWatch(journal.failing)
        self._upkeep = Upkeep(
            self.hub,
            journal,
            self._committers,
            connections,
            authenticator.keyring,
            self.counting,
            self.bodies,
            self.refusals,
            turn,
            self.now,
            DiskWatch(settings.data),
            self.reads,
            note_alive,
        )
        self.vitals = Vitals(self.hub, self.reads, self._committers, self.clients, self.bodies, turn, self.now)

    def limit(self, settings: Settings) -> None:
        """Apply these settings to all parts, in one step."""
        bounds = settings.limits
        self.allowances.settings = settings
        self.policies.limit(settings)
        self.hub.limit(settings)
        self.bodies.room.limit(bounds.bodies_bytes)
        self.plane.limit(bounds.max_frame_size)
        self.clients.limit(bounds)
        self.keyguard.anywhere = _keys_anywhere(settings)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled. Cancelling leaves nothing half done: an append under way is finished first."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.replay.run)
            for committer in self._committers:
                nursery.start_soon(committer.run)
            nursery.start_soon(self._waking.run)
            nursery.start_soon(self._recalling.run_recalls)
            nursery.start_soon(self._recalling.run_lookups)
            nursery.start_soon(self.lifetimes.run)
            self._upkeep.start(nursery)
            nursery.start_soon(run_plane, self.plane, self.turn, self.now.turn_ms)
            nursery.start_soon(run_flush, self.plane, self.turn)
            nursery.start_soon(self.turn.look_at_held_back)
            nursery.start_soon(run_tick, self.plane, self.turn, self.now.steady_ms, self._upkeep.on_second)
            await self._upkeep.begin()
            task_status.started()

    @property
    def drain_seconds(self) -> float:
        """The time limit for the shutdown."""
        return self.hub.settings.limits.drain_seconds

    async def drain(self) -> None:
        """Ask the clients to go elsewhere, and finish pending work. The caller limits the time."""
        self.clients.draining = True
        reason = PubSubError("the server is shutting down", code=80003, status=503)
        for session in self.clients.sessions:
            session.transport.pause()  # messages received so far count as pending
        with trio.move_on_after(self.drain_seconds / 2):
            for committer in self._committers:
                await committer.settled()
        for session in self.clients.sessions:
            session.disconnect(reason)
        for committer in self._committers:
            committer.leave_open()  # publishers waiting over HTTP
        self.turn.end()
        while len(self.plane):  # noqa: ASYNC110 - we wait for the peers, which give no notice
            await trio.sleep(0.02)

    @property
    def left(self) -> int:
        """The number of connections still open during the drain."""
        return len(self.plane)

    def close(self) -> None:
        """Stop serving."""
        self.refusals.tell()
        self.plane.close()

    def end(self) -> None:
        """Write final notes, when nothing else runs any more. Raises: JournalUnavailable."""
        self._upkeep.end()


def _plane(bounds: limits.Limits, bodies: Bodies) -> Plane:
    return Plane(
        max_message=bounds.max_frame_size,
        heartbeat_ms=bounds.max_idle_interval_ms * 2 // 3,
        ping_ms=bounds.max_idle_interval_ms * 4 // 3,
        lost_ms=bounds.lost_ms,
        linger_ms=limits.LINGER_MS,
        parts=bodies.room,
        max_waiting=limits.REPLIES_BYTES,
    )


def _committers(hub: Hub, plane: Plane, bounds: limits.Limits) -> list[Committer]:
    """One committer for each partition."""
    kept_seconds = min(limits.DOUBT_KEPT_SECONDS, bounds.window_seconds / 2)
    return [
        Committer(partition, plane.moved, plane.done_fd, doubt_kept_seconds=kept_seconds)
        for partition in hub.partitions
    ]


def _keys_anywhere(settings: Settings) -> bool:
    """May keys arrive in the clear from other machines?"""
    return settings.dev or settings.tls_ended_by_proxy
