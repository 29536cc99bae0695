"""Moves accepted WebSockets into the plane, each with its first message.

the usual upgrade, by the entrance  --descriptor---------->  plane.add; the answer to the upgrade is sent with CONNECTED
one checked by a task               --descriptor---------->
one with TLS, by its task           --descriptor, cipher-->"""

from __future__ import annotations

import os

import trio

from engine.errors import PubSubError
from ext.net.cipher import Cipher
from ext.net.plane import Plane
from ext.net.ws_upgrade import Request
from server.http.keyguard import peer_of
from server.node.now import Now
from server.node.turn import Turn
from server.secure import TlsStream
from server.transport.handshake import Upgrade
from server.transport.opening import Met, Opening, read_query


class Upgraded:
    """Takes over accepted WebSockets."""

    def __init__(self, opening: Opening, plane: Plane, now: Now, turn: Turn) -> None:
        self._opening = opening
        self._plane = plane
        self._now = now
        self._turn = turn

    def on_request(self, request: Request, descriptor: int, received: bytes) -> None:
        """A usual plain one."""
        self._to_plane(Upgrade(request.target, request.headers), descriptor, request.answer, received)

    def on_stream(self, upgrade: Upgrade, stream: trio.SocketStream, answer: bytes, received: bytes) -> None:
        """A plain one that a task has checked."""
        self._to_plane(upgrade, stream.socket.detach(), answer, received)
        self._turn.end()

    def on_tls(self, upgrade: Upgrade, stream: TlsStream, answer: bytes, received: bytes) -> None:
        """One with TLS that a task has checked."""
        descriptor, cipher = stream.take_over()
        self._to_plane(upgrade, descriptor, answer, received, cipher)
        self._turn.end()

    def _to_plane(
        self, upgrade: Upgrade, descriptor: int, answer: bytes, received: bytes, cipher: Cipher | None = None
    ) -> None:
        greeting = read_query(upgrade.target)
        try:
            met = self._opening.meet(upgrade, greeting, None if cipher is not None else lambda: peer_of(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        try:
            socket = self._plane.add(
                descriptor,
                _owner(met),
                msgpack=bool(greeting.wire),
                heartbeats=greeting.heartbeats,
                now_ms=self._now.steady_ms(),
                cipher=cipher,
            )
        except OSError:
            self._opening.lost(met)
            raise
        socket.send_frames(answer)
        self._opening.greet(met, greeting, socket)
        if received or cipher is not None:  # only now: a reply to a ping or close frame is sent at once
            self._plane.feed(socket, received)


def _owner(met: Met | PubSubError) -> object | None:
    """The owner of the socket's events; None if it is refused."""
    return met.client if isinstance(met, Met) else None
