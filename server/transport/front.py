"""What stands between the port and the node: the doors, and who serves what has come in.

doors --entrance--> the usual upgrade: the plane   | a publish over HTTP: its desk | else a task: the acceptor
                    TLS: a task, and then the plane, carried"""

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

HANDSHAKES_AT_ONCE = 256  # each is a task with buffers; the rest of a storm waits in the order of its arrival


class Front:
    """Puts them together."""

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
        """Let those in who come to this listener, until ``intake`` is cancelled; they live in ``connections``."""
        self._connections = connections
        self._doors.open(listener, intake, connections, self._handlers, self._on_tls)

    def limit(self, bounds: Limits) -> None:
        """Those who come, and requests that begin, go by these from now on."""
        self._acceptor.limit(handshake_seconds=bounds.handshake_seconds, head_bytes=bounds.request_head_bytes)
        self._doors.limit(bounds)
        self._http_clients.limit(bounds)

    def certify(self, tls: ssl.SSLContext) -> None:
        """Handshakes go by this from now on."""
        self._acceptor.tls = tls

    def publish_at(self, desk: PostDesk) -> None:
        """Have plain connections that begin with a publish over HTTP served there."""
        self._http_clients.desk = self._turn.desk = desk

    def on_leaving(self, descriptor: int, received: bytes, waited_seconds: float) -> None:
        """One of the desk's that has sent what is not for it: it gets a task."""
        stream = stream_of(descriptor)
        if stream is not None:
            assert self._connections is not None  # it has come through one of ours
            self._connections.start_soon(self._acceptor.handle, stream, received, waited_seconds)

    def _on_tls(self, newcomer: Newcomer, descriptor: int, received: bytes) -> None:
        stream = stream_of(descriptor)
        if stream is None:
            newcomer.leave()
        else:
            assert self._connections is not None  # it has come through one of ours
            self._connections.start_soon(self._acceptor.handle_tls, stream, received, newcomer)

    async def last_call(self) -> None:
        """Nobody is accepted any more; those who have been say who they are."""
        await self._doors.last_call()

    def drain(self) -> None:
        """Let go of those that are idle; the others end after the response under way."""
        self._http_clients.drain()

    async def ended(self) -> None:
        """Wait until all have. The caller bounds how long it may take."""
        assert self._connections is not None
        desk = self._http_clients.desk
        while self._connections.child_tasks or desk:  # noqa: ASYNC110 - requests tell nobody when they end
            await trio.sleep(0.02)

    def close(self) -> None:
        """When the plane has been closed."""
        self._http_clients.close()
