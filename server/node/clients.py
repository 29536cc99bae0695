"""The connected clients: they authenticate, take up a connection, and leave.

admit --> authenticate --> take_up: a connection, fresh or resumed --> joined --> ended, superseded
                                                                         |  AUTH: reauthenticate
                                                                         |  keys, limits: keys_changed"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from engine.allowance import Allowance, Allowances, check_connections
from engine.auth.authenticator import Authenticator
from engine.auth.revocation import Revocation, Revocations
from engine.auth.tokens import Identity, with_client_id
from engine.connection import Connection, Connections, Opened
from engine.errors import AuthError, LimitExceeded, PubSubError
from engine.hub import Hub
from engine.limits import Limits
from engine.shares import check_share
from ext.wire.acks import AckQueue
from server.node.lifetimes import Lifetimes
from server.node.now import Now
from server.realtime.protocol import ClientProtocol
from server.realtime.session import Session

SERVER_ID = "unbroken"


class Clients:
    """The clients of one server; implements server.realtime.session.Services."""

    def __init__(
        self,
        hub: Hub,
        now: Now,
        authenticator: Authenticator,
        revocations: Revocations,
        connections: Connections,
        allowances: Allowances,
        lifetimes: Lifetimes,
        touched: list[AckQueue],
        bounds: Limits,
    ) -> None:
        self.hub = hub
        self.touched = touched
        self.now_ms = now.wall_ms
        self._now = now
        self._authenticator = authenticator
        self._revocations = revocations
        self._connections = connections
        self._allowances = allowances
        self._lifetimes = lifetimes
        self._bounds = bounds
        self._live: dict[Session, ClientProtocol] = {}
        self._present: set[Connection] = set()  # the connections counted by the meters
        self.draining = False

    def __len__(self) -> int:
        return len(self._live)

    def limit(self, bounds: Limits) -> None:
        """Apply these limits from now on."""
        self._bounds = bounds
        self._connections.limit = bounds.connections

    @property
    def sessions(self) -> list[Session]:
        """A snapshot of the current sessions; some may end while the caller iterates."""
        return list(self._live)

    @property
    def here(self) -> list[ClientProtocol]:
        return list(self._live.values())

    # arrival

    def admit(self) -> None:
        """Raises: PubSubError, while the server accepts no new clients."""
        if self.draining:
            raise PubSubError("the server is shutting down", code=80003, status=503)

    def authenticate(self, params: Mapping[str, str], authorization: str | None, client_id: str | None) -> Identity:
        now_ms = self._now.wall_ms()
        identity = with_client_id(self._authenticator.authenticate(params, authorization, now_ms), client_id)
        self._revocations.check(identity, now_ms)
        return identity

    def take_up(self, identity: Identity, key: str | None) -> tuple[Opened, Allowance, PubSubError | None]:
        """The connection with this ``key``, if it can be resumed, otherwise a fresh one and the reason; with its
        allowance. Raises: LimitExceeded, when a limit is reached."""
        now_ms = self._now.steady_ms()
        allowance = self._allowances.of(identity.key_name, identity.app_id)
        problem: PubSubError | None = None
        opened: Opened | None = None
        if key:
            try:
                opened = self._connections.resume(key, identity, now_ms)
            except PubSubError as error:
                problem = error.with_traceback(None)  # the traceback holds this frame, and it the error: a cycle
            else:
                if isinstance(opened.superseded, Session):
                    opened.superseded.supersede()
                    self._left(opened.superseded)
        try:
            check_connections(allowance)
            self._check_share(identity.app_id, allowance)
        except LimitExceeded:
            if opened is not None:  # it may be resumed later
                self._connections.lost(opened.connection, opened.connection.owner, now_ms)
            raise
        return opened or self._connections.open(identity, now_ms), allowance, problem

    def _check_share(self, app_id: str, allowance: Allowance) -> None:
        """Check the app's share of connections, which others may want, too. Raises: LimitExceeded 50004."""
        if not allowance.app.quota.connections:  # otherwise the quota check has covered it
            check_share(
                "connections",
                app_id,
                own=allowance.app.connections,
                taken=self._connections.live,
                most=self._bounds.connections,
                shared=self.hub.common.shared,
            )

    def joined(self, client: ClientProtocol) -> None:
        """The client has its transport, and has been sent CONNECTED."""
        session = client.session
        if session.connection not in self._present:  # otherwise it takes over from another transport
            self._present.add(session.connection)
            self.hub.meter(session.identity.app_id).connections.add()
        session.connection.owner = session
        self._live[session] = client
        self._allowances.opened(session.allowance)
        self._lifetimes.watch(session)

    def lost_before(self, session: Session) -> None:
        """Its transport was lost before the client joined."""
        self._connections.lost(session.connection, None, self._now.steady_ms())

    # while connected

    def reauthenticate(self, session: Session, token: str) -> Identity:
        now_ms = self._now.wall_ms()
        identity = self._authenticator.token(token, now_ms)
        before = session.identity
        if identity.app_id != before.app_id:
            raise AuthError("auth: the token belongs to another app", code=40102)
        if identity.wildcard:  # valid for any clientId
            identity = replace(identity, client_id=before.client_id, wildcard=before.wildcard)
        if identity.client_id != before.client_id or identity.wildcard != before.wildcard:
            raise AuthError("auth: the token has another clientId than the connection", code=40102)
        self._revocations.check(identity, now_ms)
        if identity.key_name != before.key_name:
            allowance = self._allowances.of(identity.key_name, identity.app_id)
            self._allowances.moved(session.allowance, allowance)
            session.allowance = allowance
            session.transport.shape(allowance.shaper())
        session.identity = identity
        self._lifetimes.watch(session, renewed=True)
        return identity

    def keys_changed(self) -> None:
        """Limits of keys or general limits may have changed: apply them to live connections, too."""
        self._allowances.refresh()
        for session, client in self._live.items():
            identity = session.identity
            client.renew(self._allowances.renewed(session.allowance, identity.key_name, identity.app_id))

    async def revoke(self, entries: Iterable[Revocation]) -> None:
        """End the clients whose tokens are revoked, when the revocation applies. If cancelled, some are left
        unchecked."""
        await self._lifetimes.revoke(entries, self._live)

    def end_app(self, app_id: str) -> None:
        """The app no longer exists."""
        for session in self.sessions:
            if session.identity.app_id == app_id:
                session.fail(PubSubError("the app has been deleted", code=40120, status=401))

    def connection_key(self, session: Session) -> str:
        return self._connections.key_of(session.connection, session.identity)

    def connection_details(self, session: Session) -> dict[str, Any]:
        bounds = self._bounds
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

    # departure

    def ended(self, session: Session, *, closed: bool) -> None:
        self._left(session)
        if session.connection in self._present:
            self._present.discard(session.connection)
            self.hub.meter(session.identity.app_id).connections.remove()
        if closed:
            self._connections.closed(session.connection, session)
        else:
            # Silence beyond the usual detection time counts as time in which the connection was already lost: a client
            # with unread replies gets longer, but message ids for its retries are not kept longer.
            now_ms, unheard_ms = self._now.steady_ms(), session.transport.silence_ms - self._bounds.lost_ms
            self._connections.lost(session.connection, session, now_ms - max(0, unheard_ms))

    def _left(self, session: Session) -> None:
        """Its transport is gone, or another one has taken over its connection."""
        self._lifetimes.forget(session)  # otherwise it would be kept until its token ends
        if self._live.pop(session, None) is not None:
            self._allowances.closed(session.allowance)
