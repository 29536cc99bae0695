"""One port for everything: reads a request head, and hands the connection to whom it concerns.

    accept -> (TLS) -> head -> upgrade? -> handshake -> plane (plain), or a pair of tasks (TLS)
                            -> else     -> HTTP

Until a connection is handed over it has a deadline and a bound on what it may send."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable

import trio

from server.handshake import Upgrade, shake_hands, shake_hands_tls, wants_upgrade
from server.tls import PrefixedStream, serve_tls_websocket

LOGGER = logging.getLogger("unbroken.listener")
END_OF_HEAD = b"\r\n\r\n"
CLOSE_SECONDS = 1.0  # for a peer to take the last few bytes


class Acceptor:
    """What a new connection meets."""

    def __init__(
        self,
        *,
        on_websocket: Callable[[Upgrade, trio.SocketStream, bytes], None],
        on_tls_websocket: Callable[..., object],
        on_http: Callable[[trio.abc.Stream, bytes, float | None], Awaitable[None]],
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
        head_bytes: int,
        max_message: int,
        handshakes_at_once: int,
    ) -> None:
        self._on_websocket = on_websocket
        self._on_tls_websocket = on_tls_websocket
        self._on_http = on_http
        self._tls = tls
        self._seconds = handshake_seconds
        self._head_bytes = head_bytes
        self._max_message = max_message
        self._admitted = trio.CapacityLimiter(handshakes_at_once)

    async def handle(self, raw: trio.SocketStream, received: bytes = b"", waited_seconds: float | None = None) -> None:
        """Serve one connection, which has sent ``received`` so far. Whatever it does, nobody else is concerned.

        Args:
            waited_seconds: it speaks HTTP, and its request has been coming in for so long; None: it has just come.
        """
        stream: trio.abc.Stream = raw
        try:
            if waited_seconds is not None:
                await self._on_http(raw, received, waited_seconds)
            elif self._tls is None:
                await self._serve(raw, raw, received)
            else:
                secure = trio.SSLStream(raw, self._tls, server_side=True)
                with trio.move_on_after(self._seconds) as scope:
                    await secure.do_handshake()
                if not scope.cancelled_caught:
                    stream = secure
                    await self._serve(secure, None, b"")
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError) as gone:
            LOGGER.debug("peer gone: %r", gone)
        except BaseExceptionGroup as group:
            expected, rest = group.split((trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError))
            if rest is not None:
                if not all(isinstance(bug, Exception) for bug in rest.exceptions):
                    raise
                LOGGER.exception("a connection failed", exc_info=rest)
            LOGGER.debug("peer gone: %r", expected)
        except Exception:
            LOGGER.exception("a connection failed")
        finally:
            with trio.move_on_after(CLOSE_SECONDS) as close_scope:
                close_scope.shield = True
                if raw.socket.fileno() >= 0:  # else it is the plane's, or closed
                    await stream.aclose()  # with TLS its close_notify too: who reads until the end knows it for one

    async def _serve(self, stream: trio.abc.Stream, plain: trio.SocketStream | None, received: bytes) -> None:
        with trio.move_on_after(self._seconds) as scope:
            received = await self._read_head(stream, received)
        if scope.cancelled_caught or not received:
            return
        end = received.find(END_OF_HEAD)
        head = received if end < 0 else received[: end + len(END_OF_HEAD)]
        if end < 0 or not wants_upgrade(head):
            await self._on_http(stream, received, None)
            return
        if plain is None:
            await serve_tls_websocket(
                PrefixedStream(stream, received),
                shake_hands_tls,
                self._on_tls_websocket,
                self._seconds,
                self._max_message,
            )
            return
        upgrade = None
        async with self._admitted:
            with trio.move_on_after(self._seconds):
                upgrade = await shake_hands(plain, head)
        if upgrade is not None:
            self._on_websocket(upgrade, plain, received[len(head) :])

    async def _read_head(self, stream: trio.abc.Stream, begun: bytes) -> bytes:
        """Up to the end of the head and what came with it; more than the bound goes to HTTP, which refuses it."""
        received = bytearray(begun)
        while len(received) <= self._head_bytes and END_OF_HEAD not in received:
            data = await stream.receive_some(self._head_bytes)
            if not data:
                return b""
            received += data
        return bytes(received)
