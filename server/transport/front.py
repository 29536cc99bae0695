"""The layer between port and node: the entrances, and the handlers of incoming connections.

doors --entrance--> the usual upgrade: the plane   | a publish over HTTP: its desk | else a task: the acceptor
                    TLS: a task for its handshake and first request, then the plane"""

from __future__ import annotations

import ssl

import trio

from engine.limits import Limits
from server.node.now import Now
from server.node.turn import Turn
from server.rest.posting import PostDesk
from server.transport.accept import Handlers, stream_of
from server.transport.doors import Doors
from server.transport.http_clients import HttpClients
from server.transport.listener import Acceptor
from server.transport.newcomers import Newcomer
from server.transport.upgraded import Upgraded

HANDSHAKES_AT_ONCE = 256  # each is a task with buffers; further ones wait in order of arrival


class Front:
    """Puts the parts together."""

    def __init__(
        self,
        upgraded: Upgraded,
        http_clients: HttpClients,
        bounds: Limits,
        now: Now,
        turn: Turn,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._http_clients = http_clients
        self._turn = turn
        self._connections: trio.Nursery | None = None
        self._doors = Doors(bounds, now, turn, tls=tls is not None)
        self._acceptor = Acceptor(
            on_websocket=upgraded.on_stream,
            on_tls_websocket=upgraded.on_tls,
            on_http=http_clients.serve,
            tls=tls,
            handshake_seconds=bounds.handshake_seconds,
            head_bytes=bounds.request_head_bytes,
            handshakes_at_once=HANDSHAKES_AT_ONCE,
        )
        self._handlers = Handlers(upgraded.on_request, self._acceptor.handle, http_clients.at_desk, http_clients.shed)

    def open(self, listener: trio.SocketListener, intake: trio.Nursery, connections: trio.Nursery) -> None:
        """Accept connections on this listener, until ``intake`` is cancelled; they run in ``connections``."""
        self._connections = connections
        self._doors.open(listener, intake, connections, self._handlers, self._on_tls)

    def limit(self, bounds: Limits) -> None:
        """Apply these limits to later newcomers and requests."""
        self._acceptor.limit(handshake_seconds=bounds.handshake_seconds, head_bytes=bounds.request_head_bytes)
        self._doors.limit(bounds)
        self._http_clients.limit(bounds)

    def certify(self, tls: ssl.SSLContext) -> None:
        """Use this context for later handshakes."""
        self._acceptor.tls = tls

    def publish_at(self, desk: PostDesk) -> None:
        """Let this desk serve plain connections that begin with a publish over HTTP."""
        self._http_clients.desk = self._turn.desk = desk

    def on_leaving(self, descriptor: int, received: bytes, waited_seconds: float) -> None:
        """A connection of the desk has sent something that the desk does not serve: start a task for it."""
        stream = stream_of(descriptor)
        if stream is not None:
            assert self._connections is not None  # it came through one of our listeners
            self._connections.start_soon(self._acceptor.handle, stream, received, waited_seconds)

    def _on_tls(self, newcomer: Newcomer, descriptor: int, received: bytes) -> None:
        stream = stream_of(descriptor)
        if stream is None:
            newcomer.leave()
        else:
            assert self._connections is not None  # it came through one of our listeners
            self._connections.start_soon(self._acceptor.handle_tls, stream, received, newcomer)

    async def last_call(self) -> None:
        """Stop accepting, and let accepted connections send their request."""
        await self._doors.last_call()

    def drain(self) -> None:
        """Close idle connections; the others end after the response under way."""
        self._http_clients.drain()

    async def ended(self) -> None:
        """Wait until all connections have ended. The caller limits the time."""
        assert self._connections is not None
        desk = self._http_clients.desk
        while self._connections.child_tasks or desk:  # noqa: ASYNC110 - requests give no notice when they end
            await trio.sleep(0.02)

    def close(self) -> None:
        """Call it when the plane has been closed."""
        self._http_clients.close()
