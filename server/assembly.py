"""The parts of a server, given to each other: the node, what is asked over HTTP, the front, and who watches the keys.

directory, keyring, journal, clock --> node --> its parts --> backend --> Rest --> front
                                                                               --> desk (without TLS)"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from engine.auth.authenticator import Authenticator
from engine.auth.keys import Keyring
from engine.auth.requests import TokenIssuer
from engine.auth.revocation import Revocations
from engine.auth.tokens import TokenSeal
from engine.connection import Connections
from engine.journal.memory import MemoryJournal
from engine.journal.port import Journal
from engine.settings import Settings
from server.apps import namespaces_of
from server.certificate import Certificate
from server.datadir import DataDirectory
from server.keywatch import KeyWatch
from server.node.clock import Clock
from server.node.node import Node
from server.nonces import NonceFile
from server.reconfigure import Reloader
from server.rest.api import Rest
from server.rest.backend import NodeBackend
from server.rest.posting import PostDesk
from server.rest.provisioning import Provisioning
from server.rest.revoking import Revoker
from server.rest.revoking import begin as begin_revocations
from server.transport.front import Front
from server.transport.http_clients import HttpClients
from server.transport.opening import Opening
from server.transport.upgraded import Upgraded


@dataclass(frozen=True, slots=True)
class Parts:
    """What the process starts and stops."""

    node: Node
    rest: Rest
    front: Front
    watch: KeyWatch
    journal: Journal

    def reloader(self, settings: Settings, reread: Callable[[], Settings], certificate: Certificate | None) -> Reloader:
        node = self.node
        return Reloader(
            settings,
            reread,
            node.limit,
            self.front,
            self.rest,
            self.watch,
            certificate,
            hub=node.hub,
            policies=node.policies,
            journal=self.journal,
            turn=node.turn,
            keeps=not isinstance(self.journal, MemoryJournal),
        )


def assemble(
    settings: Settings,
    directory: DataDirectory,
    keyring: Keyring,
    journal: Journal,
    clock: Clock,
    certificate: Certificate | None,
    nonces: NonceFile,
    address: tuple[str, int],
) -> Parts:
    """Make all parts; nothing runs yet. ``address``: at which clients find the server. Raises: StartupFailed."""
    seal = TokenSeal(directory.secret)
    authenticator = Authenticator(keyring, seal)
    connections = _connections(settings, directory)
    revocations = begin_revocations(directory, keyring, clock.steady.cautious_ms)
    node = _node(settings, directory, journal, clock, authenticator, connections, revocations)
    revoker = Revoker(
        revocations, directory.keep_revocations, node.clients.revoke, node.now.wall_ms, node.now.cautious_ms
    )
    issuer = TokenIssuer(keyring, seal, secrets.token_bytes, known=nonces.known, remember=nonces.remember)
    provisioning = Provisioning(
        directory.apps,
        keyring,
        node.policies,
        node.clients,
        node.counting,
        journal,
        node.turn,
        address,
        tls=settings.tls_cert is not None,
    )
    backend = NodeBackend(
        settings,
        hub=node.hub,
        policies=node.policies,
        clients=node.clients,
        keyring=keyring,
        authenticator=authenticator,
        connections=connections,
        allowances=node.allowances,
        lifetimes=node.lifetimes,
        counting=node.counting,
        vitals=node.vitals,
        turn=node.turn,
        now=node.now,
        pace=node.pace,
        reads=node.reads,
        issuer=issuer,
        revoker=revoker,
        provisioning=provisioning,
    )
    rest = Rest(backend, node.pace)
    front = _front(settings, node, rest, backend, keyring, revocations, certificate)
    watch = KeyWatch(directory.apps, keyring, settings.keys, node.clients, node.turn.end)
    return Parts(node, rest, front, watch, journal)


def _connections(settings: Settings, directory: DataDirectory) -> Connections:
    bounds = settings.limits
    return Connections(
        directory.secret,
        life=directory.life,
        earlier=directory.earlier_lives,
        newest=directory.newest_keys,
        note_key=directory.note_key,
        ttl_ms=bounds.connection_state_seconds * 1000,
        limit=bounds.connections,
    )


def _node(
    settings: Settings,
    directory: DataDirectory,
    journal: Journal,
    clock: Clock,
    authenticator: Authenticator,
    connections: Connections,
    revocations: Revocations,
) -> Node:
    return Node(
        settings,
        journal,
        authenticator,
        connections,
        clock,
        dedup_key=directory.dedup_key,
        note_alive=directory.note_alive,
        revocations=revocations,
        namespaces=namespaces_of(directory.apps.read(), directory.apps.path),
    )


def _front(
    settings: Settings,
    node: Node,
    rest: Rest,
    backend: NodeBackend,
    keyring: Keyring,
    revocations: Revocations,
    certificate: Certificate | None,
) -> Front:
    """``rest`` behind it, and, where connections are plain, the desk for publishes."""
    handler = node.refusals.around(node.keyguard.before(rest))
    http_clients = HttpClients(handler, node.bodies, node.pace, node.now, settings.limits)
    opening = Opening(node.clients, node.replay, node.keyguard, node.refusals, node.lifetimes)
    upgraded = Upgraded(opening, node.plane, node.now, node.turn)
    tls = certificate.context if certificate is not None else None
    front = Front(upgraded, http_clients, settings.limits, node.now, node.turn, tls)
    if tls is None:
        desk = PostDesk(
            rest,
            backend,
            keyring,
            http_clients.http_limits,
            front.on_leaving,
            hub=node.hub,
            plane=node.plane,
            now=node.now,
            bodies=node.bodies,
            allowances=node.allowances,
            revocations=revocations,
            keyguard=node.keyguard,
            refusals=node.refusals,
            counting=node.counting,
        )
        front.publish_at(desk)
    return front
