"""What HTTP requests ask of a node: publishing, history, tokens, health, and the apps of development."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from functools import partial
from typing import Any

import trio

import server
from engine import limits
from engine.auth.capability import Capability
from engine.auth.keys import Key, Keyring
from engine.auth.requests import TokenIssuer
from engine.auth.tokens import Identity
from engine.channel import Channel
from engine.errors import BadRequest, LimitExceeded, PubSubError
from engine.journal import entries
from engine.journal.port import Stored
from engine.partition import Partition
from engine.policy import Policy
from engine.sequencer import Completion
from engine.settings import DEFAULT_PERSISTED_HOURS, Namespace
from engine.statistics import Entries, Interval
from ext.log.terms import Terms
from ext.text.serial import message_serial_text
from server.apps import namespaces_of, new_key, stored_key
from server.datadir import DataDirectory
from server.keywatch import tell_made, tell_revoked
from server.node.node import Node
from server.node.readers import alone
from server.pace import Pace
from server.rest.admin import Health
from server.rest.publishing import RestPublish
from server.rest.revoking import Revoker
from server.rest.statistics import StatsQuery

FEW_SERIALS = 100  # become text in 30 us; of more, in their turn
MOST_APPS = 10_000  # of development; each is a test run's
MOST_KEYS = 100
MOST_NAMESPACES = 100


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

    async def wait(self, pace: Pace) -> list[str]:
        """The serials, once it is stored; of many, in their turn: a batch learns of all its channels at once."""
        await self._event.wait()
        if self._error is not None:
            raise self._error
        serial, series, index, count = self._place
        if count > FEW_SERIALS:
            await pace.turn(math.inf)
        return [message_serial_text(serial, series, n) for n in range(index, index + count)]


class NodeBackend:
    """The Backend of server.rest."""

    def __init__(
        self, node: Node, keyring: Keyring, issuer: TokenIssuer, directory: DataDirectory, revoker: Revoker
    ) -> None:
        self._node = node
        self._revoker = revoker
        self._keyring = keyring
        self._issuer = issuer
        self._directory = directory
        self._readers = trio.CapacityLimiter(limits.JOURNAL_READERS)
        self.address: tuple[str, int] = ("127.0.0.1", 0)
        node.app_namespaces.update(namespaces_of(directory.apps.read(), directory.apps.path))

    @property
    def dev(self) -> bool:
        return self._node.settings.dev

    def now_ms(self) -> int:
        return self._node.now_ms()

    def authenticate(self, params: Mapping[str, str], authorization: str | None, client_id: str | None) -> Identity:
        return self._node.authenticate(params, authorization, client_id)

    def request_token(self, key_name: str, body: dict[str, object], authorization: str | None) -> dict[str, object]:
        key = self._node.authenticator.basic_key({}, authorization)
        with_token = (authorization or "").lstrip().lower().startswith("bearer")
        now_ms, steady_ms = self.now_ms(), self._node.this_turn_ms()
        return self._issuer.issue(key_name, body, key, now_ms, with_token=with_token, steady_ms=steady_ms)

    async def until_of_use(self, error: PubSubError) -> None:
        await self._node.lifetimes.until_of_use(error)

    async def revoke_tokens(
        self, key_name: str, body: dict[str, object], params: Mapping[str, str], authorization: str | None
    ) -> dict[str, object]:
        key = self._node.authenticator.basic_key(params, authorization)
        return await self._revoker.revoke(key_name, body, key)

    def admit_reader(self, identity: Identity) -> None:
        node = self._node
        node.allowances.of(identity.key_name, identity.app_id).admit_reader(node.now_ms())

    def charge_reader(self, identity: Identity, count: int, size: int) -> None:
        node, now_ms = self._node, self._node.now_ms()
        node.allowances.of(identity.key_name, identity.app_id).charge_reader(count, size, now_ms)
        if count:
            node.statistics.count(identity.app_id, "messages.outbound.rest.messages.count", now_ms, count)
            node.statistics.count(identity.app_id, "messages.outbound.rest.messages.data", now_ms, size)

    def behalf(self, key_text: str, app_id: str) -> tuple[str, str | None]:
        connection = self._node.connections.by_key(key_text, app_id)
        return connection.id, connection.client_id

    def retained_from(self, app_id: str, channel: str) -> int:
        policy, partition = self._home_of(app_id, channel)
        return self._node.older_than(partition, policy.retained_ms)

    def series_of(self, app_id: str, channel: str, serial: int) -> str:
        return self._node.policy_of(app_id, channel).series_of(serial)

    def terms(self, identity: Identity) -> Terms:
        return self._node.allowances.of(identity.key_name, identity.app_id).request_terms

    async def publish(self, identity: Identity, ready: RestPublish) -> list[str]:
        """Serials of its messages, once they are stored. If cancelled, it may be stored all the same."""
        outcome = Outcome()
        self.stage(identity, ready, outcome)
        self._node.end_of_turn()
        return await outcome.wait(self._node.pace)

    def stage(self, identity: Identity, ready: RestPublish, completion: Completion) -> Channel:
        """Have it stored, and ``completion`` told; where. Raises: LimitExceeded: then nobody is told."""
        node = self._node
        node.now_ms()  # the time of this turn, for all that it is asked for
        if node.hub.common.congested:
            raise LimitExceeded("too much waits to be stored", code=42910, status=429)
        return node.hub.publish(
            identity.app_id, ready.channel.name, ready.publish, ready.base_id, ready.author, ready.terms, completion
        )

    async def continuous(self, app_id: str, channel: str, cursor: int) -> bool:
        found = self.channel(app_id, channel)
        if found is not None and found.in_memory and found.in_ring(cursor):
            return True
        policy, partition = self._home_of(app_id, channel)
        if not partition.kept:
            return False
        work = partial(partition.journal.continuous, f"{app_id}:{channel}", policy.retention, cursor)
        return await trio.to_thread.run_sync(alone, work, limiter=self._readers)

    async def read_after(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        return await self._read(app_id, channel, cursor, limit, budget, backwards=False)

    async def read_before(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        return await self._read(app_id, channel, cursor, limit, budget, backwards=True)

    def _home_of(self, app_id: str, channel: str) -> tuple[Policy, Partition]:
        """What it promises, and where it does."""
        policy = self._node.policy_of(app_id, channel)
        return policy, self._node.hub.partition_for(policy.durability)

    async def _read(
        self, app_id: str, channel: str, cursor: int, limit: int, budget: int, *, backwards: bool
    ) -> list[Stored]:
        key, (_, partition) = f"{app_id}:{channel}", self._home_of(app_id, channel)
        if not partition.kept:
            return self._read_ring(key, cursor, limit, budget, backwards=backwards)
        if backwards:
            found = self._read_ring(key, cursor, limit, budget, backwards=True)
            if found:  # the newest are in memory too, and need no thread; what lies before them is asked for next
                return found
        read = entries.before if backwards else entries.after
        work = partial(read, partition.journal, key, cursor, limit=limit, budget=budget)
        return await trio.to_thread.run_sync(alone, work, limiter=self._readers)

    def _read_ring(self, key: str, cursor: int, limit: int, budget: int, *, backwards: bool) -> list[Stored]:
        """What of it is in memory; nothing, when the channel is asleep."""
        channel = self._node.hub.channels.get(key)
        if channel is None or not channel.in_memory:
            return []
        ring = channel.ring
        if backwards:
            shown = ring.read_before(cursor, limit=limit)
        else:
            shown, cursor = [], max(cursor, ring.evicted)
            while not shown and cursor < ring.head:  # what it looks at may all be ephemeral
                cursor, shown = ring.read_after(cursor, budget=budget)
        # Entries are tuples of serial, series, record; the ring does not look into them.
        return [Stored(entry[0], 0, entry[1], entry[2]) for entry in shown[:limit]]  # type: ignore[index]

    def channel(self, app_id: str, name: str) -> Channel | None:
        return self._node.hub.channels.get(f"{app_id}:{name}")

    def channel_names(self, app_id: str, prefix: str, after: str, most: int) -> list[str]:
        return self._node.hub.names.after(app_id, prefix, after, most)

    def app_of(self, key_name: str) -> str | None:
        key = self._keyring.find(key_name)
        return key.app_id if key is not None else None

    def count_request(self, app_id: str, counted_as: str) -> None:
        self._node.statistics.count(app_id, counted_as, self.now_ms())

    async def statistics(self, app_id: str, query: StatsQuery) -> list[Interval]:
        node, (first_ms, last_ms) = self._node, query.span
        async with node.statistics_turn:
            node.statistics.look(self.now_ms())
            page = partial(node.statistics.page, limit=query.limit + 1, backwards=query.backwards)
            return await trio.to_thread.run_sync(alone, partial(page, app_id, query.unit, first_ms, last_ms))

    async def put_statistics(self, app_id: str, minutes: list[tuple[int, Entries]]) -> None:
        node = self._node
        async with node.statistics_turn:
            await trio.to_thread.run_sync(node.statistics.put, app_id, minutes, node.cautious_ms())

    def health(self) -> Health:
        node = self._node
        reasons = []
        if node.failure is not None:
            reasons.append(f"publishes are refused: {node.failure}")
        in_doubt = sum(committer.in_doubt for committer in node.committers)
        if in_doubt:
            reasons.append(f"of {in_doubt} publishes it is not known whether they are stored")
        failed = node.journal.failing.newest
        if failed is not None:
            reasons.append(f"stored messages can't be read: {failed.reason}")
        if node.draining:
            reasons.append("the server is shutting down")
        details: dict[str, object] = {
            "connections": len(node.clients),
            "channels": len(node.hub.channels),
            "batches": sum(committer.batches for committer in node.committers),
            "failedBatches": sum(committer.failures for committer in node.committers),
            "ringBytes": node.hub.budget.held,
            "ringBytesMost": node.hub.budget.most,
            "partBytes": node.bodies.held,
            "partBytesMost": node.bodies.room.most,
            "partRefusals": node.bodies.room.refused,
        }
        if node.desk is not None:
            details |= node.desk.statistics()
        details["clock"] = node.clock.statistics()
        uptime = (node.steady_ms() - node.started_ms) / 1000
        return Health(server.VERSION, uptime, node.settings.durability, tuple(reasons), details)

    # development

    def create_app(self, spec: dict[str, object]) -> dict[str, object]:
        """Make an app with its keys and namespaces, as a test suite wants it. Raises: BadRequest, LimitExceeded."""
        wanted = spec.get("keys") or [{}]
        if not isinstance(wanted, list) or len(wanted) > MOST_KEYS:
            raise BadRequest(f"keys: must be an array of at most {MOST_KEYS}", code=40000)
        app_id = secrets.token_hex(4)
        keys = [_new_key(app_id, entry, f"keys[{at}]") for at, entry in enumerate(wanted)]
        spaces = _new_namespaces(spec.get("namespaces"))
        with self._directory.apps.changing() as apps:
            if len(apps) >= MOST_APPS:
                raise LimitExceeded(f"there are {MOST_APPS} apps already, and no server has more", code=42910)
            apps[app_id] = {
                "keys": [stored_key(key) for key in keys],
                "namespaces": {space.id: space.persisted_hours for space in spaces},
            }
        self._node.app_namespaces[app_id] = {space.id: space for space in spaces}
        for key in keys:
            self._keyring.add(key)
            tell_made(key.name)
        return self._app(app_id, keys, spaces)

    def _app(self, app_id: str, keys: list[Key], spaces: list[Namespace]) -> dict[str, object]:
        """What was made, and no more: what of the request is not available here is not said to be there."""
        host, port = self.address
        return {
            "appId": app_id,
            "accountId": "local",
            "id": app_id,
            "status": "enabled",
            "endpoint": host,
            "port": port,
            "tls": self._node.settings.tls_cert is not None,
            "keys": [
                {
                    "id": key.key_id,
                    "value": key.secret,
                    "keyName": key.name,
                    "keySecret": key.secret,
                    "keyStr": key.text,
                    "capability": key.capability.text,
                    "revocableTokens": key.revocable_tokens,
                    "status": 0,
                }
                for key in keys
            ],
            "namespaces": [
                # As the node has it, because a server that keeps all in memory persists nothing.
                {"id": space.id, "persisted": self._node.policy_of(app_id, f"{space.id}:").retention != "w"}
                for space in spaces
            ],
            "channels": [],
            "connections": [],
        }

    async def delete_app(self, app_id: str) -> None:
        """Its keys, its clients, its messages."""
        with self._directory.apps.changing() as apps:
            apps.pop(app_id, None)
        for key in self._keyring.remove_app(app_id):
            tell_revoked(key.name)
        self._node.app_namespaces.pop(app_id, None)
        for session in list(self._node.clients):
            if session.identity.app_id == app_id:
                session.fail(PubSubError("the app has been deleted", code=40120, status=401))
        self._node.end_of_turn()
        await trio.to_thread.run_sync(self._node.journal.forget, f"{app_id}:")
        async with self._node.statistics_turn:
            await trio.to_thread.run_sync(self._node.statistics.forget, app_id)


def _new_key(app_id: str, entry: Any, field: str) -> Key:
    if not isinstance(entry, dict):
        raise BadRequest(f"{field}: must be a map", code=40000)
    capability = entry.get("capability")
    return new_key(
        app_id, Capability.parse(capability) if capability else None, revocable=entry.get("revocableTokens") is True
    )


def _new_namespaces(wanted: object) -> list[Namespace]:
    """In the order of the request. Raises: BadRequest."""
    if wanted is None:
        return []
    if not isinstance(wanted, list) or len(wanted) > MOST_NAMESPACES:
        raise BadRequest(f"namespaces: must be an array of at most {MOST_NAMESPACES}", code=40000)
    spaces = []
    for at, entry in enumerate(wanted):
        space = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(space, str) or not space or ":" in space:
            raise BadRequest(f"namespaces[{at}].id: must be a name without colons", code=40000)
        spaces.append(Namespace(space, DEFAULT_PERSISTED_HOURS if entry.get("persisted") is True else 0))
    return spaces
