"""HTTP connections: publishes are served by the desk, everything else by a task for each connection.

begins with a publish --> the desk (server/rest/posting.py), in the plane's turns
                             |  any other request: a task
anything else         --> a task: h11; a publish, as from libraries that get a token first: the desk"""

from __future__ import annotations

from functools import partial

import trio

from engine import limits
from engine.limits import Limits
from server.http.bodies import Bodies, room_for_answers
from server.http.request import Handler
from server.http.serving import HttpLimits, IdleConnections, serve_http
from server.node.now import Now
from server.pace import LoopPace
from server.rest.posting import PostDesk


class HttpClients:
    """Serves HTTP connections."""

    def __init__(self, rest: Handler, bodies: Bodies, pace: LoopPace, now: Now, bounds: Limits) -> None:
        self._rest = rest
        self._bodies = bodies
        self._pace = pace
        self._now = now
        self._answers = room_for_answers()
        self._idle = IdleConnections()
        self.http_limits = _http_limits(bounds)
        self.desk: PostDesk | None = None  # TLS connections have tasks

    def limit(self, bounds: Limits) -> None:
        """Apply these limits to later requests."""
        self.http_limits = _http_limits(bounds)
        if self.desk is not None:
            self.desk.limit(self.http_limits)

    def at_desk(self, descriptor: int, received: bytes) -> bool:
        """Pass the connection to the desk, if it begins with a publish; otherwise the caller keeps it."""
        return self.desk is not None and self.desk.take(descriptor, received)

    async def serve(self, stream: trio.abc.Stream, received: bytes, waited_seconds: float | None) -> bytes | None:
        """Serve one connection, in a task. Returns a WebSocket request with the bytes after it, or None when the
        connection has ended."""
        # A connection that has left the desk does not return: it probably sends more of the same, and moving is costly.
        on_publish = partial(self._move, stream) if waited_seconds is None else (lambda received: False)
        return await serve_http(
            stream,
            received,
            self._rest,
            limits=self.http_limits,
            idle=self._idle,
            waited_seconds=waited_seconds or 0.0,
            elsewhere=on_publish,
            bodies=self._bodies,
            answers=self._answers,
            pace=self._pace,
        )

    def _move(self, stream: trio.abc.Stream, received: bytes) -> bool:
        if not isinstance(stream, trio.SocketStream) or not self.at_desk(stream.socket.fileno(), received):
            return False
        stream.socket.detach()
        return True

    def shed(self) -> None:
        """No descriptors are left for newcomers: close connections that only wait for their next request."""
        self._idle.shed(limits.CROWDED_MS / 1000)
        if self.desk is not None:
            self.desk.posts.tick(self._now.steady_ms(), limits.CROWDED_MS)

    def drain(self) -> None:
        """Close idle connections; the others end after the response under way."""
        self._idle.drain()
        if self.desk is not None:
            self.desk.drain()

    def close(self) -> None:
        """Call it at the end, when the plane is closed."""
        if self.desk is not None:
            self.desk.posts.close()


def _http_limits(bounds: Limits) -> HttpLimits:
    return HttpLimits(head_bytes=bounds.request_head_bytes, body_bytes=bounds.request_body_bytes)
