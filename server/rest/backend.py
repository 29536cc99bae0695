"""The node's operations for HTTP requests: publishing, history, tokens, health, and apps in development mode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import trio

import server
from engine import limits
from engine.allowance import Allowances
from engine.auth.authenticator import Authenticator
from engine.auth.keys import Keyring
from engine.auth.requests import TokenIssuer
from engine.auth.tokens import Identity
from engine.channel import Channel
from engine.connection import Connections
from engine.errors import LimitExceeded, PubSubError
from engine.hub import Hub
from engine.journal import entries
from engine.journal.port import Stored
from engine.sequencer import Completion
from engine.settings import Settings
from engine.statistics import Entries, Interval
from ext.log.terms import Terms
from ext.text.serial import message_serial_text
from server.node.clients import Clients
from server.node.counting import Counting
from server.node.lifetimes import Lifetimes
from server.node.now import Now
from server.node.policies import Policies
from server.node.readwatch import ReadWatch
from server.node.turn import Turn
from server.node.vitals import Vitals
from server.pace import LoopPace
from server.rest.admin import Health
from server.rest.provisioning import Provisioning
from server.rest.publishing import RestPublish
from server.rest.revoking import Revoker
from server.rest.stats import StatsQuery

FEW_SERIALS = 100  # become text in 30 us; of more, in their turn


class Outcome:
    """A publish that somebody waits for; a ``Completion`` for the sequencer."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._place: tuple[int, str, int, int] = (0, "", 0, 0)
        self._error: PubSubError | None = None

    def accepted(self, serial: int, series: str, index: int, count: int) -> None:
        self._place = (serial, series, index, count)  # as text once it is wanted: many may be told of in one step
        self._event.set()

    def refused(self, error: PubSubError) -> None:
        self._error = error
        self._event.set()

    async def wait(self, pace: LoopPace) -> list[str]:
        """The serials, once it is stored; waiters take turns, because a batch learns of all its channels at once."""
        await self._event.wait()
        if self._error is not None:
            raise self._error
        serial, series, index, count = self._place
        if count > FEW_SERIALS:
            await pace.turn(math.inf)
        return [message_serial_text(serial, series, n) for n in range(index, index + count)]


class NodeBackend:
    """The ``Backend`` of server.rest.api on a node."""

    def __init__(
        self,
        settings: Settings,
        *,
        hub: Hub,
        policies: Policies,
        clients: Clients,
        keyring: Keyring,
        authenticator: Authenticator,
        connections: Connections,
        allowances: Allowances,
        lifetimes: Lifetimes,
        counting: Counting,
        vitals: Vitals,
        turn: Turn,
        now: Now,
        pace: LoopPace,
        reads: ReadWatch,
        issuer: TokenIssuer,
        revoker: Revoker,
        provisioning: Provisioning,
    ) -> None:
        self.dev = settings.dev
        self._durability = settings.durability
        self._hub = hub
        self._policies = policies
        self._clients = clients
        self._keyring = keyring
        self._authenticator = authenticator
        self._connections = connections
        self._allowances = allowances
        self._lifetimes = lifetimes
        self._counting = counting
        self._vitals = vitals
        self._turn = turn
        self._now = now
        self._pace = pace
        self._reads = reads
        self._issuer = issuer
        self._revoker = revoker
        self._provisioning = provisioning
        self._readers = trio.CapacityLimiter(limits.JOURNAL_READERS)

    def now_ms(self) -> int:
        return self._now.wall_ms()

    def authenticate(self, params: Mapping[str, str], authorization: str | None, client_id: str | None) -> Identity:
        return self._clients.authenticate(params, authorization, client_id)

    def request_token(self, key_name: str, body: dict[str, object], authorization: str | None) -> dict[str, object]:
        key = self._authenticator.basic_key({}, authorization)
        with_token = (authorization or "").lstrip().lower().startswith("bearer")
        now_ms, steady_ms = self.now_ms(), self._now.turn_ms()
        return self._issuer.issue(key_name, body, key, now_ms, with_token=with_token, steady_ms=steady_ms)

    async def until_of_use(self, error: PubSubError) -> None:
        await self._lifetimes.until_of_use(error)

    async def revoke_tokens(
        self, key_name: str, body: dict[str, object], params: Mapping[str, str], authorization: str | None
    ) -> dict[str, object]:
        key = self._authenticator.basic_key(params, authorization)
        return await self._revoker.revoke(key_name, body, key)

    def admit_reader(self, identity: Identity) -> None:
        self._allowances.of(identity.key_name, identity.app_id).admit_reader(self._now.wall_ms())

    def charge_reader(self, identity: Identity, count: int, size: int) -> None:
        allowance = self._allowances.of(identity.key_name, identity.app_id)
        allowance.charge_reader(count, size, self._now.wall_ms())
        if count:
            self._counting.count(identity.app_id, "messages.outbound.rest.messages.count", count)
            self._counting.count(identity.app_id, "messages.outbound.rest.messages.data", size)

    def behalf(self, key_text: str, app_id: str) -> tuple[str, str | None]:
        connection = self._connections.by_key(key_text, app_id)
        return connection.id, connection.client_id

    def retained_from(self, app_id: str, channel: str) -> int:
        policy, partition = self._policies.home_of(app_id, channel)
        return self._now.older_than(partition, policy.retained_ms)

    def series_of(self, app_id: str, channel: str, serial: int) -> str:
        return self._policies.of(app_id, channel).series_of(serial)

    def terms(self, identity: Identity) -> Terms:
        return self._allowances.of(identity.key_name, identity.app_id).request_terms

    async def publish(self, identity: Identity, ready: RestPublish) -> list[str]:
        """The serials of its messages, once they are stored. If cancelled, it may be stored all the same."""
        outcome = Outcome()
        self.stage(identity, ready, outcome)
        self._turn.end()
        return await outcome.wait(self._pace)

    def stage(self, identity: Identity, ready: RestPublish, completion: Completion) -> Channel:
        """Stage it, and return its channel; ``completion`` gets the outcome, unless this raises LimitExceeded."""
        hub = self._hub
        self._now.wall_ms()  # the time of this turn, for all that it is asked for
        if hub.common.congested:
            raise LimitExceeded("too many messages are waiting to be stored", code=42910, status=429)
        return hub.publish(
            identity.app_id, ready.channel.name, ready.publish, ready.base_id, ready.author, ready.terms, completion
        )

    async def continuous(self, app_id: str, channel: str, cursor: int) -> bool:
        found = self.channel(app_id, channel)
        if found is not None and found.in_memory and found.in_ring(cursor):
            return True
        policy, partition = self._policies.home_of(app_id, channel)
        if not partition.kept:
            return False
        work = partial(partition.journal.continuous, f"{app_id}:{channel}", policy.retention, cursor)
        return await self._reads.answer(work, self._readers)

    async def read_after(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        return await self._read(app_id, channel, cursor, limit, budget, backwards=False)

    async def read_before(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        return await self._read(app_id, channel, cursor, limit, budget, backwards=True)

    async def _read(
        self, app_id: str, channel: str, cursor: int, limit: int, budget: int, *, backwards: bool
    ) -> list[Stored]:
        key, (_, partition) = f"{app_id}:{channel}", self._policies.home_of(app_id, channel)
        if not partition.kept:
            return self._read_ring(key, cursor, limit, budget, backwards=backwards)
        if backwards:
            found = self._read_ring(key, cursor, limit, budget, backwards=True)
            if found:  # the newest are in memory too, and need no thread; what lies before them is asked for next
                return found
        read = entries.before if backwards else entries.after
        work = partial(read, partition.journal, key, cursor, limit=limit, budget=budget)
        return await self._reads.answer(work, self._readers)

    def _read_ring(self, key: str, cursor: int, limit: int, budget: int, *, backwards: bool) -> list[Stored]:
        """The part of it in memory; none, if the channel is asleep."""
        channel = self._hub.channels.get(key)
        if channel is None or not channel.in_memory:
            return []
        ring = channel.ring
        if backwards:
            shown = ring.read_before(cursor, limit=limit)
        else:
            shown, cursor = [], max(cursor, ring.evicted)
            while not shown and cursor < ring.head:  # these entries may all be ephemeral
                cursor, shown = ring.read_after(cursor, budget=budget)
        # Entries are tuples of serial, series, record; the ring does not look into them.
        return [Stored(entry[0], 0, entry[1], entry[2]) for entry in shown[:limit]]  # type: ignore[index]

    def channel(self, app_id: str, name: str) -> Channel | None:
        return self._hub.channels.get(f"{app_id}:{name}")

    def channel_names(self, app_id: str, prefix: str, after: str, most: int) -> list[str]:
        return self._hub.names.after(app_id, prefix, after, most)

    def app_of(self, key_name: str) -> str | None:
        key = self._keyring.find(key_name)
        return key.app_id if key is not None else None

    def count_request(self, app_id: str, counted_as: str) -> None:
        self._counting.count(app_id, counted_as)

    async def statistics(self, app_id: str, query: StatsQuery) -> list[Interval]:
        first_ms, last_ms = query.span
        return await self._counting.page(
            app_id, query.unit, first_ms, last_ms, limit=query.limit + 1, backwards=query.backwards
        )

    async def put_statistics(self, app_id: str, minutes: list[tuple[int, Entries]]) -> None:
        await self._counting.put(app_id, minutes)

    def health(self) -> Health:
        vitals = self._vitals
        complaints = tuple(vitals.complaints())
        return Health(server.VERSION, vitals.uptime_seconds, self._durability, complaints, vitals.counts())

    # development

    def create_app(self, spec: dict[str, object]) -> dict[str, object]:
        return self._provisioning.create_app(spec)

    async def delete_app(self, app_id: str) -> None:
        await self._provisioning.delete_app(app_id)
