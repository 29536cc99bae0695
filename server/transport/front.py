"""What stands between the port and the node: doors, handshakes, and who serves what has come in.

    listener --entrance--> the usual upgrade: the plane   | a publish over HTTP: its desk | else a task: the acceptor
                           TLS: a task, and then the plane, carried

Bounds of newcomers are those of the day they come."""

from __future__ import annotations

import os
import ssl
from functools import partial

import trio

from engine import limits
from engine.errors import PubSubError
from engine.limits import Limits
from ext.net.accept import Entrance
from ext.net.socket import Socket
from ext.net.ws_upgrade import Request
from server import descriptors
from server.http.bodies import room_for_answers
from server.http.connection import HttpLimits, IdleConnections, serve_http
from server.http.keyguard import peer_of
from server.http.request import Handler
from server.node.node import Node
from server.realtime.protocol import ClientProtocol
from server.rest.posting import PostDesk
from server.secure import TlsStream
from server.transport.entrance import run_entrance, run_patience, stream_of
from server.transport.handshake import Upgrade
from server.transport.listener import Acceptor
from server.transport.newcomers import Newcomers
from server.transport.opening import Greeting, meet, read_query, refuse, welcome
from server.transport.tls import Carriage

HANDSHAKES_AT_ONCE = 256  # each is a task with buffers; the rest of a storm waits in the order of its arrival
LAST_CALL_SECONDS = 1.0  # at the end: some round trips, for those who have just been accepted


class Front:
    """What stands between the port and the node."""

    def __init__(self, node: Node, rest: Handler, tls: ssl.SSLContext | None) -> None:
        bounds = node.settings.limits
        self.idle = IdleConnections()
        self._node = node
        self._rest = rest
        self._tls = tls is not None
        self.desk: PostDesk | None = None  # TLS connections have tasks
        self._connections: trio.Nursery | None = None
        self._bodies = node.bodies
        self._answers = room_for_answers()
        self.http_limits = _http_limits(bounds)
        self._doors: list[tuple[Entrance, Newcomers]] = []
        self.acceptor = Acceptor(
            on_websocket=self._on_websocket,
            on_tls_websocket=self._on_tls_websocket,
            on_http=self._on_http,
            tls=tls,
            handshake_seconds=bounds.handshake_seconds,
            head_bytes=bounds.request_head_bytes,
            handshakes_at_once=HANDSHAKES_AT_ONCE,
        )

    def open(self, listener: trio.SocketListener, intake: trio.Nursery, connections: trio.Nursery) -> None:
        """Let those in who come to this listener, until ``intake`` is cancelled; they live in ``connections``."""
        self._connections = connections
        bounds = self._node.settings.limits
        entrance = Entrance(
            listener.socket.fileno(),
            most_waiting=descriptors.most_newcomers(),
            head_bytes=0 if self._tls else bounds.request_head_bytes,  # of TLS no head comes in clear
            patience_ms=bounds.handshake_seconds * 1000,
            crowded_ms=limits.CROWDED_MS,
            most_descriptors=descriptors.most_for_connections(),
        )
        newcomers = Newcomers(entrance, limits.CROWDED_MS / 1000)
        self._doors.append((entrance, newcomers))
        intake.start_soon(
            run_entrance,
            entrance,
            self._node.steady_ms,
            self.on_request,
            self.acceptor.handle,
            self._node.end_of_turn,
            connections,
            partial(self._on_tls, newcomers) if self._tls else self._on_post,
            self.shed,
            bounds.request_head_bytes,
        )
        intake.start_soon(run_patience, entrance, newcomers, self._node.steady_ms)

    def limit(self, bounds: Limits) -> None:
        """Those who come, and requests that begin, go by these from now on."""
        self.http_limits = _http_limits(bounds)
        self.acceptor.limit(handshake_seconds=bounds.handshake_seconds, head_bytes=bounds.request_head_bytes)
        for entrance, _ in self._doors:
            entrance.limit(
                head_bytes=0 if self._tls else bounds.request_head_bytes,
                patience_ms=bounds.handshake_seconds * 1000,
                most_descriptors=descriptors.most_for_connections(),
            )
        if self.desk is not None:
            self.desk.limit(self.http_limits)

    def publish_at(self, desk: PostDesk) -> None:
        """Have plain connections that begin with a publish over HTTP served there."""
        self.desk = self._node.desk = desk

    def on_leaving(self, descriptor: int, received: bytes, waited_seconds: float) -> None:
        """One of the desk's that has sent what is not for it: it gets a task."""
        stream = stream_of(descriptor)
        if stream is not None:
            assert self._connections is not None  # it has come through one of ours
            self._connections.start_soon(self.acceptor.handle, stream, received, waited_seconds)

    def _on_tls(self, newcomers: Newcomers, descriptor: int, received: bytes) -> bool:
        newcomer = newcomers.arrived()
        stream = stream_of(descriptor)
        if stream is None:
            newcomer.leave()
        else:
            assert self._connections is not None  # it has come through one of ours
            self._connections.start_soon(self.acceptor.handle_tls, stream, received, newcomer)
        return True

    def shed(self) -> None:
        """There is no descriptor for newcomers: let go of connections that only wait for their next request."""
        self.idle.shed(limits.CROWDED_MS / 1000)
        if self.desk is not None:
            self.desk.posts.tick(self._node.steady_ms(), limits.CROWDED_MS)

    async def last_call(self) -> None:
        """Nobody is accepted any more; those who have been say who they are. Then they can be told to go, and come back
        at once, where one who is cut off in the middle of it believes that there is no server."""
        for entrance, _ in self._doors:
            entrance.shut()
        with trio.move_on_after(LAST_CALL_SECONDS):
            while any(len(entrance) or len(newcomers) for entrance, newcomers in self._doors):  # noqa: ASYNC110 - they tell nobody
                await trio.sleep(0.01)

    def drain(self) -> None:
        """Let go of those that are idle; the others end after the response under way."""
        self.idle.drain()
        if self.desk is not None:
            self.desk.drain()

    def _on_post(self, descriptor: int, received: bytes) -> bool:
        return self.desk is not None and self.desk.take(descriptor, received)

    async def _on_http(self, stream: trio.abc.Stream, received: bytes, waited_seconds: float | None) -> bytes | None:
        # Who has left the desk does not go there again: what it sends may well stay as it is, and moving has its price.
        on_publish = partial(self._move, stream) if waited_seconds is None else (lambda received: False)
        return await serve_http(
            stream,
            received,
            self._rest,
            limits=self.http_limits,
            idle=self.idle,
            waited_seconds=waited_seconds or 0.0,
            elsewhere=on_publish,
            bodies=self._bodies,
            answers=self._answers,
            pace=self._node.pace,
        )

    def _move(self, stream: trio.abc.Stream, received: bytes) -> bool:
        """One that has begun with other requests and publishes now, as libraries do that get a token first."""
        if not isinstance(stream, trio.SocketStream) or not self._on_post(stream.socket.fileno(), received):
            return False
        stream.socket.detach()
        return True

    def _on_websocket(self, upgrade: Upgrade, stream: trio.SocketStream, answer: bytes, received: bytes) -> None:
        """A plain one that a task has looked at: its socket moves into the plane."""
        self._to_plane(upgrade, stream.socket.detach(), answer, received)
        self._node.end_of_turn()

    def on_request(self, request: Request, descriptor: int, received: bytes) -> None:
        """The usual plain one: its socket moves into the plane, and the answer to the upgrade leaves with CONNECTED."""
        self._to_plane(Upgrade(request.target, request.headers), descriptor, request.answer, received)

    def _to_plane(self, upgrade: Upgrade, descriptor: int, answer: bytes, received: bytes) -> None:
        node, greeting = self._node, read_query(upgrade.target)
        try:
            met = meet(node, upgrade, greeting, lambda: peer_of(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        client = None if isinstance(met, PubSubError) else met[0]
        try:
            socket = node.plane.add(
                descriptor,
                client,
                msgpack=bool(greeting.wire),
                heartbeats=greeting.heartbeats,
                now_ms=node.steady_ms(),
            )
        except OSError:
            if client is not None:
                node.connections.lost(client.session.connection, None, node.steady_ms())
            raise
        self._greet(met, greeting, socket, answer, received)

    def _greet(
        self,
        met: tuple[ClientProtocol, PubSubError | None] | PubSubError,
        greeting: Greeting,
        socket: Socket,
        answer: bytes,
        received: bytes,
    ) -> None:
        """The first that it hears from us: the answer to the upgrade, and CONNECTED, or why it is refused.

        Only then what it has sent together with its request: the answer to a ping or a close frame leaves at once."""
        socket.send_frames(answer)
        if isinstance(met, PubSubError):
            if not self._node.lifetimes.say(met, partial(refuse, met, greeting, socket)):
                socket.pause()
        else:
            welcome(self._node, met[0], socket, met[1])
        if received:
            self._node.plane.feed(socket, received)

    async def _on_tls_websocket(self, upgrade: Upgrade, stream: TlsStream, answer: bytes, received: bytes) -> None:
        """One with TLS: the plane's too, carried to it until it ends."""
        node, greeting = self._node, read_query(upgrade.target)
        met = meet(node, upgrade, greeting, None)
        client = None if isinstance(met, PubSubError) else met[0]
        carriage = Carriage(stream, node.plane, node.begin_turn, node.end_of_turn)
        socket = node.plane.carry(
            client,
            carriage.wake,
            msgpack=bool(greeting.wire),
            heartbeats=greeting.heartbeats,
            now_ms=node.steady_ms(),
        )
        self._greet(met, greeting, socket, answer, received)
        node.end_of_turn()
        await carriage.run(socket)


def _http_limits(bounds: Limits) -> HttpLimits:
    return HttpLimits(head_bytes=bounds.request_head_bytes, body_bytes=bounds.request_body_bytes)
