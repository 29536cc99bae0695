"""One running server: the engine's parts put together, and what connects them to time, threads and sockets.

listener --websocket--> opening --> plane ---> ClientProtocol --> hub, sequencer
         --http-------> Rest ----------------------^                 |
                                                                committer --> journal
end_of_turn: whatever one turn of work has left: what needs no journal is committed, answers are queued, bytes leave"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import trio

from engine import limits
from engine.allowance import Allowance, Allowances
from engine.auth.authenticator import Authenticator
from engine.auth.revocation import Revocations
from engine.auth.tokens import Identity, with_client_id
from engine.connection import Connection, Connections
from engine.errors import AuthError, PubSubError
from engine.hub import Hub
from engine.journal.memory import MemoryJournal
from engine.journal.port import Journal
from engine.names import namespace
from engine.partition import Partition
from engine.policy import Policy
from engine.quota import Quota
from engine.settings import Namespace, Settings
from engine.shares import check_share
from engine.statistics import Statistics
from ext.log.ring import Stream
from ext.net.plane import Plane
from ext.wire.acks import AckQueue
from server.http.bodies import Bodies
from server.http.keyguard import KeyGuard
from server.http.refusals import Refusals
from server.node.clock import Clock
from server.node.committer import Committer
from server.node.disk import DiskWatch
from server.node.heap import Falling, give_back
from server.node.lifetimes import Lifetimes
from server.node.plane_runner import run_flush, run_plane, run_tick
from server.node.readwatch import ReadWatch
from server.node.recalling import Recalling
from server.node.replay import Replay
from server.node.waking import Waking
from server.pace import Pace
from server.realtime.attach import Attaching
from server.realtime.attachment import Attachment
from server.realtime.params import Rewind
from server.realtime.protocol import ClientProtocol
from server.realtime.session import Session

LOGGER = logging.getLogger("unbroken")

ALIVE_SECONDS = 2.0  # between notes of being alive; by so much the resume window of a crash may be off
KEEP_SECONDS = 10.0  # between writes of statistics: so much of them a crash may cost
TURN_SECONDS = 0.01  # between looks at who has waited long enough for his rate
MAINTAIN_SECONDS = 1.0  # between looks at the journal's buckets
SERVER_ID = "unbroken"


def policy_for(settings: Settings, options: Namespace | None, hub: Hub) -> Policy:
    """What a channel promises whose namespace has these options."""
    durability = (options.durability if options is not None else None) or settings.durability
    # A server that now keeps all in memory may have apps that were made to be persisted, when it did not.
    hours = options.persisted_hours if options is not None and durability != "memory" else 0
    window_ms = settings.limits.window_seconds * 1000
    partition, synced = hub.partition_for(durability), durability == "synced"
    return Policy(
        durability=durability,
        retention=f"p{hours}" if hours else "w",
        retained_ms=max(hours * 3_600_000, window_ms),
        series=partition.series(synced=synced),
        lives=partition.lives(synced=synced),
    )


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


class Node:
    """Everything of one server process; ``run`` in a nursery keeps it going."""

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
        revocations: Revocations | None = None,
    ) -> None:
        bounds = settings.limits
        self.settings = settings
        self.journal = journal
        self.authenticator = authenticator
        self.connections = connections
        self.allowances = Allowances(settings, authenticator.keyring)
        self.keyguard = KeyGuard(anywhere=settings.dev or settings.tls_ended_by_proxy)
        self.refusals = Refusals(authenticator.key_named)
        self.disk = DiskWatch(settings.data)
        self.clock = clock
        self._read_in_ms = -1  # by the kernel's monotonic clock, which is read ten times as fast
        self.started_ms = clock.steady.steady_ms
        self.draining = False
        self.clients: dict[Session, ClientProtocol] = {}  # all live ones
        self._present: set[Connection] = set()  # those that the meters count
        self.keeps = not isinstance(journal, MemoryJournal)
        self.app_namespaces: dict[str, dict[str, Namespace]] = {}  # by app, then by their id
        self.hub = Hub(settings, journal, clock.log, dedup_key, self.policy_of, self.quota_of)
        clock.steady.join(self.hub.memory.clock)
        self.read_clock()
        self._shared_out = -1  # the version of the keys by which that was done
        self._share_out()
        self.statistics = Statistics(journal, self.hub.meters, prune=not settings.dev)  # whose fixtures lie years back
        self.statistics_turn = trio.Lock()  # held by whoever has them touch the journal
        self.bodies = Bodies(bounds.within(limits.MEMORY_UNKNOWN).bodies_bytes)
        self.plane = Plane(
            max_message=bounds.max_frame_size,
            heartbeat_ms=bounds.max_idle_interval_ms * 2 // 3,
            ping_ms=bounds.max_idle_interval_ms * 4 // 3,
            lost_ms=bounds.lost_ms,
            linger_ms=limits.LINGER_MS,
            parts=self.bodies.room,
            most_waiting=limits.REPLIES_BYTES,
        )
        self.pace = Pace(self.plane.kick)
        doubt_kept_seconds = min(limits.DOUBT_KEPT_SECONDS, bounds.window_seconds / 2)
        self.committers = [
            Committer(partition, self._committed, self.plane.kick_fd, doubt_kept_seconds=doubt_kept_seconds)
            for partition in self.hub.partitions
        ]
        self.replay: Replay
        self._note_alive = note_alive
        self._policies: dict[Policy, Policy] = {}  # a million channels share a few
        self.touched: list[AckQueue] = []
        self.desk: Desk | None = None  # of those that publish over HTTP
        self._more_to_send = trio.Event()
        self._turns = trio.Event()
        self.waking = Waking(self.hub, self.older_than, self.begin_turn, self.end_of_turn, self.pace)
        self.recalling = Recalling(self.hub, self.end_of_turn, lambda: self.hub.common.now_ms)
        self.begin_turn()
        self.revocations = revocations if revocations is not None else Revocations()
        self.lifetimes = Lifetimes(self.revocations, self.now_ms, self.end_of_turn)

    # what time it is

    def read_clock(self) -> None:
        """What is published from now on is of now: of this very millisecond."""
        read_in_ms = time.monotonic_ns() // 1_000_000
        if read_in_ms != self._read_in_ms:
            self._read_in_ms = read_in_ms
            now, common = self.clock.read(), self.hub.common
            common.now_ms, common.steady_ms = now.wall_ms, now.steady_ms

    def now_ms(self) -> int:
        """The wall clock's: for what is told to people, and agreed on with others."""
        self.read_clock()
        return self.hub.common.now_ms

    def steady_ms(self) -> int:
        """For whatever is about spans of time: who is silent is not lost because somebody sets the clock."""
        self.read_clock()
        return self.hub.common.steady_ms

    def cautious_ms(self) -> int:
        """The wall clock's, for what must not be over too soon because somebody has set that forward."""
        self.read_clock()
        return self.clock.steady.cautious_ms

    def this_turn_ms(self) -> int:
        """The same as of the beginning of this turn."""
        return self.hub.common.steady_ms

    def older_than(self, partition: Partition, age_ms: int) -> int:
        """The milliseconds of its serials below which everything is older than this."""
        return partition.older_than(self.steady_ms() - age_ms)

    def policy_of(self, app_id: str, name: str) -> Policy:
        """What the channel's namespace promises: the app's own, else the configured one."""
        space = namespace(name)
        options = self.app_namespaces.get(app_id, {}).get(space) or self.settings.namespaces.get(space)
        policy = policy_for(self.settings, options, self.hub)
        return self._policies.setdefault(policy, policy)

    def quota_of(self, app_id: str, name: str) -> Quota:
        """Of one channel, as its namespace or the general one says."""
        return self.settings.channel_quota(name)

    # its life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Cancelling leaves nothing half done: an append under way is finished first."""
        async with trio.open_nursery() as nursery:
            self.replay = Replay(nursery, self.now_ms, self.end_of_turn, self.plane.kick, self.older_than)
            nursery.start_soon(self.replay.run)
            for committer in self.committers:
                nursery.start_soon(committer.run)
            nursery.start_soon(self.waking.run)
            nursery.start_soon(self.recalling.run_recalls)
            nursery.start_soon(self.recalling.run_lookups)
            nursery.start_soon(self._keep_journal)
            nursery.start_soon(self._sweep)
            nursery.start_soon(run_plane, self.plane, self, self.this_turn_ms)
            nursery.start_soon(run_flush, self.plane, lambda: self._more_to_send)
            nursery.start_soon(self._give_turns)
            nursery.start_soon(self.lifetimes.run)
            nursery.start_soon(run_tick, self.plane, self, self.steady_ms, self._on_second)
            await trio.to_thread.run_sync(self._maintain, self.steady_ms(), self.clock.noted())
            task_status.started()

    @property
    def failure(self) -> PubSubError | None:
        """Why nothing can be stored just now."""
        return next((committer.failure for committer in self.committers if committer.failure is not None), None)

    @property
    def busy(self) -> bool:
        return any(committer.busy for committer in self.committers)

    async def drain(self) -> None:
        """Ask the clients to go elsewhere, and finish what is pending. The caller bounds how long it may take."""
        self.draining = True
        reason = PubSubError("the server is shutting down", code=80003, status=503)
        for session in self.clients:
            session.transport.pause()  # what they have sent so far is what is pending
        with trio.move_on_after(self.settings.limits.drain_seconds / 2):
            for committer in self.committers:
                await committer.settled()
        for session in list(self.clients):
            session.disconnect(reason)
        for committer in self.committers:
            committer.leave_open()  # whoever waits over HTTP
        self.end_of_turn()
        while len(self.plane):  # noqa: ASYNC110 - it is the peers that we wait for, and they tell nobody
            await trio.sleep(0.02)

    def begin_turn(self) -> None:
        """Before any work: what is published in this turn is of now."""
        self.read_clock()

    def arrivals(self) -> None:
        """In the plane's turn: what has come to those that it listens to."""
        if self.desk is not None:
            self.desk.turn()

    def end_of_turn(self) -> bool:
        """After any work: whatever it has left to do for others. True: there is more to send; it goes on by itself."""
        self.waking.look()
        self.recalling.look()
        self.replay.take()
        for committer in self.committers:
            if committer.turn():
                self.plane.kick()  # the next turn begins at once
        self._answer()
        if self.desk is not None and self.desk.flush():
            self.plane.kick()
        more = self.plane.flush()
        if self.plane.holding:
            self._turns.set()
        if more:
            self._more_to_send.set()
            self._more_to_send = trio.Event()
        return more

    def _answer(self) -> None:
        while self.touched:
            for queue in self.plane.answer(self.touched):
                if queue.owner is not None:
                    queue.owner.answer()
                else:
                    queue.take()  # there is nobody left to tell

    def _committed(self, moved: list[Stream]) -> None:
        self.plane.moved(moved)

    async def _give_turns(self) -> None:
        """Have those looked at whose deliveries wait because of a rate, while there are any."""
        while True:
            await self._turns.wait()
            self._turns = trio.Event()
            await trio.sleep(TURN_SECONDS)
            self.end_of_turn()

    def held_bytes(self) -> int:
        """Of all that has a budget."""
        return self.hub.budget.held + self.bodies.held

    def _share_out(self) -> None:
        """What one app alone may use up is shared as soon as there are others."""
        keyring = self.authenticator.keyring
        if keyring.version != self._shared_out:
            self._shared_out = keyring.version
            self.hub.common.shared = keyring.apps() > 1

    def _on_second(self) -> None:
        self.begin_turn()
        now_ms = self.now_ms()
        self._share_out()
        self.connections.expire(self.hub.common.steady_ms)
        self.statistics.look(now_ms)
        self.refusals.tick(self.hub.common.steady_ms)
        if self.desk is not None:
            self.desk.tick()
        self.end_of_turn()

    async def _sweep(self) -> None:
        """Have channels forget, a few at a time; and what many have left behind, given back to the system."""
        dropped, falling = 0, Falling(limits.TRIM_BYTES)
        while True:
            await trio.sleep(limits.SWEEP_SECONDS if self.hub.sweep_is_due(self.steady_ms()) else 1.0)
            now = self.hub.sweep(self.steady_ms(), limits.SWEEP_CHANNELS)
            dropped += now
            if falling.by_enough(self.held_bytes()) or (not now and dropped >= limits.TRIM_CHANNELS):
                dropped = 0
                await trio.to_thread.run_sync(give_back)

    async def _keep_journal(self) -> None:
        """Have the journal forget what is past retention, and make its next buckets."""
        noted = kept = looked = 0
        watch = ReadWatch(self.journal.failing)
        while True:
            await trio.sleep(MAINTAIN_SECONDS)
            steady_ms = self.steady_ms()
            await watch.look(steady_ms)
            due = steady_ms - noted >= ALIVE_SECONDS * 1000
            try:
                if self.failure is None:
                    clocks = self.clock.noted() if due else b""
                    await trio.to_thread.run_sync(self._maintain, steady_ms, clocks)
                if due:
                    noted = steady_ms
                    await trio.to_thread.run_sync(self._note_alive, steady_ms)
                    if self.failure is None:
                        await trio.to_thread.run_sync(self.journal.raise_head, self.hub.kept.sequencer.revealed)
                if steady_ms - looked >= KEEP_SECONDS * 1000:
                    looked = steady_ms
                    await trio.to_thread.run_sync(self.disk.look)
                if steady_ms - kept >= KEEP_SECONDS * 1000 and self.failure is None:
                    kept = steady_ms
                    async with self.statistics_turn:
                        self.statistics.take()
                        await trio.to_thread.run_sync(self.statistics.keep, self.cautious_ms())
            except (PubSubError, OSError) as error:
                LOGGER.error("maintenance failed, it is tried again: %s", error)

    def _maintain(self, steady_ms: int, clocks: bytes) -> None:
        """In a thread: all journals forget what is past retention, and note what the clocks say, if that is given."""
        for partition in self.hub.partitions:
            partition.journal.maintain(steady_ms, clocks)

    def keep_statistics(self) -> None:
        """All there are, and how far serials went; at the end, when nothing else runs. Raises: JournalUnavailable."""
        now_ms = self.now_ms()
        self.statistics.look(now_ms)
        self.statistics.take()
        self.statistics.keep(self.cautious_ms())
        self.journal.raise_head(self.hub.kept.sequencer.revealed)

    # its clients

    def admit(self) -> None:
        """Raises: PubSubError, when nobody may come in just now."""
        if self.draining:
            raise PubSubError("the server is shutting down", code=80003, status=503)

    def authenticate(self, params: Mapping[str, str], authorization: str | None, client_id: str | None) -> Identity:
        now_ms = self.now_ms()
        identity = with_client_id(self.authenticator.authenticate(params, authorization, now_ms), client_id)
        self.revocations.check(identity, now_ms)
        return identity

    def check_connections(self, app_id: str, allowance: Allowance) -> None:
        """May its app have one connection more, though others will want some? Raises: LimitExceeded 50004."""
        if not allowance.app.quota.connections:  # else that has been asked for already
            check_share(
                "connections",
                app_id,
                own=allowance.app.connections,
                taken=self.connections.live,
                most=self.settings.limits.connections,
                shared=self.hub.common.shared,
            )

    def joined(self, client: ClientProtocol) -> None:
        """It has its transport, and has been told CONNECTED."""
        session = client.session
        if session.connection not in self._present:  # else it takes over from another transport
            self._present.add(session.connection)
            self.hub.meter(session.identity.app_id).connections.add()
        session.connection.owner = session
        self.clients[session] = client
        self.allowances.opened(session.allowance)
        self.lifetimes.watch(session)

    # what attaching asks for (server.realtime.attach.Reading)

    def locate(self, session: Session, attachment: Attachment, cursor: int, found: Callable[[bool], None]) -> None:
        self.replay.beginnings.locate(session, attachment, cursor, found)

    def rewound(
        self, session: Session, attachment: Attachment, rewind: Rewind, found: Callable[[int, int, bool], None]
    ) -> None:
        self.replay.beginnings.rewound(session, attachment, rewind, found)

    def hurry(self, attachment: Attachment) -> None:
        self.replay.beginnings.hurry(attachment)

    def catch_up(self, attaching: Attaching) -> None:
        self.replay.catch_up(attaching)

    # what a session asks for (server.realtime.session.Services)

    def reauthenticate(self, session: Session, token: str) -> Identity:
        now_ms = self.now_ms()
        identity = self.authenticator.token(token, now_ms)
        before = session.identity
        if identity.app_id != before.app_id:
            raise AuthError("auth: the token belongs to another app", code=40102)
        if identity.wildcard:  # good for whoever the connection is
            identity = replace(identity, client_id=before.client_id, wildcard=before.wildcard)
        if identity.client_id != before.client_id or identity.wildcard != before.wildcard:
            raise AuthError("auth: the token has another clientId than the connection", code=40102)
        self.revocations.check(identity, now_ms)
        if identity.key_name != before.key_name:
            allowance = self.allowances.of(identity.key_name, identity.app_id)
            self.allowances.moved(session.allowance, allowance)
            session.allowance = allowance
            session.transport.shape(allowance.shaper())
        session.identity = identity
        self.lifetimes.watch(session, renewed=True)
        return identity

    def keys_changed(self) -> None:
        """Their limits, or everybody's, may be others: those hold for live connections, too."""
        self.allowances.refresh()
        for session, client in self.clients.items():
            identity = session.identity
            client.renew(self.allowances.renewed(session.allowance, identity.key_name, identity.app_id))

    def superseded(self, session: Session) -> None:
        """Another transport has its connection now."""
        self.lifetimes.forget(session)  # else it would be kept until its token ends
        if self.clients.pop(session, None) is not None:
            self.allowances.closed(session.allowance)

    def ended(self, session: Session, *, closed: bool) -> None:
        self.superseded(session)
        if session.connection in self._present:
            self._present.discard(session.connection)
            self.hub.meter(session.identity.app_id).connections.remove()
        if closed:
            self.connections.closed(session.connection, session)
        else:
            # What it was silent for beyond the time in which that is found out, its connection has been lost already:
            # one that left replies unread is given longer, but what it sends again is not known for longer.
            now_ms, unheard_ms = self.steady_ms(), session.transport.silence_ms - self.settings.limits.lost_ms
            self.connections.lost(session.connection, session, now_ms - max(0, unheard_ms))

    def connection_key(self, session: Session) -> str:
        return self.connections.key_of(session.connection, session.identity)

    def connection_details(self, session: Session) -> dict[str, Any]:
        bounds = self.settings.limits
        details: dict[str, Any] = {
            "clientId": session.identity.told_client_id,
            "maxMessageSize": session.allowance.max_message_size,
            "maxFrameSize": bounds.max_frame_size,
            "connectionStateTtl": bounds.connection_state_seconds * 1000,
            "maxIdleInterval": bounds.max_idle_interval_ms,
            "serverId": SERVER_ID,
        }
        own = session.allowance.connection
        if own.messages_in:
            details["maxInboundRate"] = own.messages_in
        if own.messages_out:
            details["maxOutboundRate"] = own.messages_out
        return details
