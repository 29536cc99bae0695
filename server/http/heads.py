"""Checks request heads beyond what the library checks, and recognizes WebSocket requests.

    check_head      every request: its size, and that its body has one length
    asks_for_websocket -> check_upgrade     RFC 6455, section 4.2.1; on "/" alone
                       -> head_as_sent      for the code that answers it

A refusal here has a body with the reason, like any other refusal: a WebSocket library would answer with a bare 400, and
its client could not tell its user more than that."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping

import h11

from engine.errors import PubSubError
from server.http.foreign import of_another, protocol_named, protocol_of
from server.http.reply import HttpRefusal, not_allowed
from server.http.request import bad_request, path_segments, split_target

LENGTH_WRONG = 40008  # for an invalid Content-Length, or a second length
AROUND = len(b"  HTTP/1.1\r\n\r\n")  # of method and target, and behind the last header
AROUND_FIELD = len(b": \r\n")
NONCE_BYTES = 16
SHOWN = 200  # characters of a path in an error


def too_long(most: int) -> PubSubError:
    return bad_request(f"the request head is larger than {most} bytes", status=431)


def check_head(head: h11.Request, headers: Mapping[str, str], most: int) -> None:
    """Check what h11 does not: it looks at the size of a head only while that is incomplete, and where a body has two
    lengths, or one that its version does not know, it takes one. A proxy in front may take the other, and somebody's
    body for the next one's request.

    Args:
        most: bytes of a head.
    Raises: PubSubError 40000 with 431, 40008.
    Source: RFC 9112, sections 6.1 and 6.3.
    """
    fields = sum(len(name) + len(value) + AROUND_FIELD for name, value in head.headers)
    if len(head.method) + len(head.target) + fields + AROUND > most:
        raise too_long(most)
    if "transfer-encoding" not in headers:
        return
    if "content-length" in headers:
        raise bad_request("malformed request: both Content-Length and Transfer-Encoding", LENGTH_WRONG)
    if head.http_version < b"1.1":
        raise bad_request("malformed request: Transfer-Encoding in HTTP/1.0", LENGTH_WRONG)


def asks_for_websocket(headers: Mapping[str, str]) -> bool:
    """True even if a proxy has dropped the upgrade headers: no other client sends that key."""
    return "websocket" in _tokens(headers.get("upgrade", "")) or "sec-websocket-key" in headers


def check_upgrade(head: h11.Request, headers: Mapping[str, str]) -> None:
    """May the request become a WebSocket? Its credentials are checked later, and refused over the WebSocket.

    Raises: PubSubError 40000, 40400, 40500, with the reason.
    """
    target = head.target.decode("ascii")
    path, _ = split_target(target)
    if path != "/":
        protocol = protocol_of(path_segments(path))
        why = "does not accept WebSockets; connect to /" if protocol is None else of_another(protocol)
        raise PubSubError(f"{path[:SHOWN]} {why}", code=40400, status=404)
    if head.method != b"GET":
        raise not_allowed(f"{head.method.decode('ascii')[:SHOWN]} cannot open a WebSocket; use GET", "GET")
    if head.http_version < b"1.1":
        raise bad_request("a WebSocket requires HTTP/1.1, got HTTP/1.0; does a proxy in between use it?")
    if "websocket" not in _tokens(headers.get("upgrade", "")):
        raise bad_request("Upgrade: must be websocket; does a proxy in between drop the header?")
    if "upgrade" not in _tokens(headers.get("connection", "")):
        raise bad_request("Connection: must name upgrade; does a proxy in between drop the header?")
    if headers.get("content-length", "0").strip("0") or "transfer-encoding" in headers:
        raise bad_request("a WebSocket request must not have a body")
    if not headers["host"].isascii():
        raise bad_request("Host: must be ASCII")
    version = headers.get("sec-websocket-version")
    if version != "13":
        found = "is missing" if version is None else f"got {version[:32]!r}"
        raise HttpRefusal(
            f"Sec-WebSocket-Version: must be 13, {found}",
            code=40000,
            status=426,
            headers=[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
        )
    _check_key(headers.get("sec-websocket-key"))
    protocol = protocol_named(headers.get("sec-websocket-protocol", ""))
    if protocol is not None:
        raise bad_request(f"Sec-WebSocket-Protocol: {of_another(protocol)}")


def _check_key(key: str | None) -> None:
    if key is None:
        raise bad_request("Sec-WebSocket-Key: is missing")
    try:
        size = len(b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != NONCE_BYTES:
        raise bad_request(f"Sec-WebSocket-Key: must be base64 of {NONCE_BYTES} bytes")


def _tokens(value: str) -> list[str]:
    return [token.strip(" \t") for token in value.lower().split(",")]


def head_as_sent(head: h11.Request) -> bytes:
    """The bytes of the head, for another parser."""
    lines = [b"%s %s HTTP/%s" % (head.method, head.target, head.http_version)]
    lines += [b"%s: %s" % field for field in head.headers.raw_items()]
    return b"\r\n".join([*lines, b"", b""])
