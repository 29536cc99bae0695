"""One port for everything: reads a request head, and passes the connection to its handler.

    accept -> (TLS) -> head -> the usual upgrade? ----------------> plane: by its descriptor, or carried by two tasks
                            -> else -> HTTP -> upgrade? -> handshake ^
                                        this request, or a later one: proxies keep connections

The HTTP code reports errors in WebSocket requests, as in any other. Until it is passed on, a connection has a deadline
and an input limit."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from ext.net.ws_upgrade import parse_upgrade
from server.http.reply import refusal, respond
from server.http.request import HttpRequest, bad_request
from server.http.serving import whole_response
from server.secure import TlsStream
from server.transport.handshake import Upgrade, shake_hands
from server.transport.mistaken import PLAIN_ON_TLS, TLS_ON_PLAIN, answer_mistaken, is_plain_http, is_tls
from server.transport.newcomers import Newcomer

LOGGER = logging.getLogger("unbroken.listener")
END_OF_HEAD = b"\r\n\r\n"
CLOSE_SECONDS = 1.0  # for a peer to receive the last few bytes
# In one pass of the loop: a step takes a millisecond of CPU, and other clients' messages take several passes.
TLS_STEPS_AT_ONCE = 1
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError)


class Acceptor:
    """The first handler of a new connection."""

    def __init__(
        self,
        *,
        on_websocket: Callable[[Upgrade, trio.SocketStream, bytes, bytes], None],
        on_tls_websocket: Callable[[Upgrade, TlsStream, bytes, bytes], None],
        on_http: Callable[[trio.abc.Stream, bytes, float | None], Awaitable[bytes | None]],
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
        head_bytes: int,
        handshakes_at_once: int,
    ) -> None:
        """``on_websocket`` and ``on_tls_websocket`` get the answer to the upgrade, which they send, and the bytes after
        the request."""
        self._on_websocket = on_websocket
        self._on_tls_websocket = on_tls_websocket
        self._on_http = on_http
        self.tls = tls  # for later handshakes
        self._seconds = handshake_seconds
        self._head_bytes = head_bytes
        self._admitted = trio.CapacityLimiter(handshakes_at_once)
        self._tls_steps = trio.CapacityLimiter(TLS_STEPS_AT_ONCE)

    def limit(self, *, handshake_seconds: float, head_bytes: int) -> None:
        """Apply these limits to later connections."""
        self._seconds, self._head_bytes = handshake_seconds, head_bytes

    async def handle(self, raw: trio.SocketStream, received: bytes = b"", waited_seconds: float | None = None) -> None:
        """Serve one plain connection, which has sent ``received`` so far. No error of it affects other connections.

        Args:
            waited_seconds: how long its HTTP request has been arriving; None for a new connection.
        """
        await self._alone(partial(self._serve, raw, received, waited_seconds), raw, raw)

    async def handle_tls(self, raw: trio.SocketStream, received: bytes, newcomer: Newcomer) -> None:
        """The same with TLS; ``newcomer`` leaves when the request has arrived, or the peer has gone."""
        assert self.tls is not None
        stream = TlsStream(raw, self.tls)
        try:
            await self._alone(partial(self._serve_tls, stream, received, newcomer), stream, raw)
        finally:
            newcomer.leave()

    async def _alone(
        self, serve: Callable[[], Awaitable[None]], stream: trio.abc.Stream, raw: trio.SocketStream
    ) -> None:
        """Contain its errors; at the end, close the stream, unless it has a new owner."""
        try:
            await serve()
        except GONE as gone:
            LOGGER.debug("peer gone: %r", gone)
        except BaseExceptionGroup as group:
            if not _bugs_are_told(group):
                raise
        except Exception:
            LOGGER.exception("a connection failed")
        finally:
            with trio.move_on_after(CLOSE_SECONDS) as close_scope:
                close_scope.shield = True
                if raw.socket.fileno() >= 0:  # otherwise it is the plane's, or closed
                    await stream.aclose()  # with TLS, close_notify first: it marks the end for the reader

    async def _serve(self, stream: trio.SocketStream, received: bytes, waited_seconds: float | None) -> None:
        if waited_seconds is None:
            if is_tls(received):
                await answer_mistaken(stream, TLS_ON_PLAIN)
                return
            with trio.move_on_after(self._seconds) as scope:
                received = await self._read_head(stream, received)
            if scope.cancelled_caught or not received:
                return
        asked = await self._asked(stream, received, waited_seconds)
        if asked is not None:
            upgrade, answer, rest = asked
            self._on_websocket(upgrade, stream, answer, rest)

    async def _serve_tls(self, stream: TlsStream, received: bytes, newcomer: Newcomer) -> None:
        with newcomer.patience:
            if is_plain_http(received):
                with newcomer:
                    await answer_mistaken(stream.transport_stream, PLAIN_ON_TLS)
                return
            with trio.move_on_after(self._seconds) as scope:
                await stream.handshake(received, self._tls_steps, newcomer)
            if scope.cancelled_caught:
                return
            with trio.move_on_after(self._seconds) as scope, newcomer:
                received = await self._read_head(stream, b"")
        if scope.cancelled_caught or newcomer.patience.cancelled_caught or not received:
            return
        newcomer.leave()
        asked = _usual(received, self._head_bytes) or await self._asked(stream, received, None)
        if asked is not None:
            upgrade, answer, rest = asked
            self._on_tls_websocket(upgrade, stream, answer, rest)

    async def _asked(
        self, stream: trio.abc.Stream, received: bytes, waited_seconds: float | None
    ) -> tuple[Upgrade, bytes, bytes] | None:
        """A WebSocket request, the answer, and the bytes after it, once all requests before it have been served; None
        if the connection has ended or has a new owner."""
        found = await self._on_http(stream, received, waited_seconds)
        if found is None:
            return None
        end = found.index(END_OF_HEAD) + len(END_OF_HEAD)
        async with self._admitted:
            granted = await shake_hands(found[:end])
        if granted is None:
            malformed = refusal(bad_request("the WebSocket request is malformed"))
            response = respond(HttpRequest("GET", "/", {}, {}, b"", isinstance(stream, TlsStream), ""), malformed)
            with trio.move_on_after(self._seconds):
                await stream.send_all(whole_response(response, last=True))
            return None
        return *granted, found[end:]

    async def _read_head(self, stream: trio.abc.Stream, begun: bytes) -> bytes:
        """Read up to the end of the head; may include bytes after it. HTTP refuses a head over the limit."""
        received = bytearray(begun)
        while len(received) <= self._head_bytes and END_OF_HEAD not in received:
            data = await stream.receive_some(self._head_bytes)
            if not data:
                return b""
            received += data
        return bytes(received)


def _usual(received: bytes, most: int) -> tuple[Upgrade, bytes, bytes] | None:
    """The usual WebSocket request, the answer, and the bytes after it; None: HTTP has to look at it."""
    end = received.find(END_OF_HEAD) + len(END_OF_HEAD)
    request = parse_upgrade(received[:end]) if len(END_OF_HEAD) <= end <= most else None
    return None if request is None else (Upgrade(request.target, request.headers), request.answer, received[end:])


def _bugs_are_told(group: BaseExceptionGroup[BaseException]) -> bool:
    """Errors of the peer are expected, a bug is logged. False: the group contains something else, the server's
    shutdown.

    A separate function, because the group refers to the frame that caught it, and a reference back would make a cycle.
    """
    expected, rest = group.split(GONE)
    if rest is not None:
        if not all(isinstance(bug, Exception) for bug in rest.exceptions):
            return False
        LOGGER.exception("a connection failed", exc_info=rest)
    LOGGER.debug("peer gone: %r", expected)
    return True
