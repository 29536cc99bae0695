"""Refuses keys that cross a network in the clear: an eavesdropper could use them for ever.

    key in query or header --TLS----------------------> in
                           --plain, loopback peer-----> in
                           --plain, anybody else------> 40103, whether the key is right or not

It is off in development mode, and if the configuration says that a proxy terminates TLS (the proxy is then the peer).
Tokens may come in the clear: they expire, and some users need that. Source: Ably's rule for Basic authentication."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping
from functools import lru_cache

from engine.errors import AuthError, PubSubError
from server.http.reply import refusal, respond
from server.http.request import Handler, HttpRequest, Response

NOBODY = ""  # the peer of a socket that has none any more


class KeyGuard:
    """Decides whether a request may carry a key."""

    def __init__(self, *, anywhere: bool) -> None:
        self.anywhere = anywhere

    def check(self, params: Mapping[str, str], authorization: str | None, peer: Callable[[], str] | None) -> None:
        """Raises: AuthError 40103.

        Args:
            peer: returns the address at the other end of a plain connection; None: the connection has TLS.
        """
        if self.anywhere or peer is None or not carries_key(params, authorization) or is_loopback(peer()):
            return
        raise AuthError(
            "key: must not cross a network without TLS; use https and wss, or a token. "
            "Behind a proxy that terminates TLS, start the server with tls_ended_by_proxy",
            code=40103,
        )

    def before(self, handler: Handler) -> Handler:
        """The handler, behind this guard."""

        async def guarded(request: HttpRequest) -> Response:
            try:
                peer = None if request.is_tls else lambda: request.peer
                self.check(request.query, request.headers.get("authorization"), peer)
            except PubSubError as error:
                return respond(request, refusal(error))
            return await handler(request)

        return guarded


def carries_key(params: Mapping[str, str], authorization: str | None) -> bool:
    """Does it contain a key, used or not? An eavesdropper could read either."""
    return bool(params.get("key")) or (authorization or "").lstrip().lower().startswith("basic")


@lru_cache(maxsize=1024)  # one look-up instead of 3 us, for each client at this address
def is_loopback(peer: str) -> bool:
    """Is it an address of this machine itself?"""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def peer_of(descriptor: int) -> str:
    """The address at the other end of a socket, which stays open."""
    try:
        borrowed = socket.socket(fileno=descriptor)
    except OSError:
        return NOBODY
    try:
        return str(borrowed.getpeername()[0])
    except (OSError, IndexError):
        return NOBODY
    finally:
        borrowed.detach()
