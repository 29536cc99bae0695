"""Answers plain HTTP on a TLS port, and TLS on a plain port: in HTTP, which both kinds of client can show.

    GET / ...             to a port with TLS   400: this port speaks TLS
    16 03 .. ClientHello  to a plain port      400: this port speaks plain HTTP (TLS libraries: wrong version number)

The parser or OpenSSL refuses all other input (another protocol, garbage)."""

from __future__ import annotations

import re

import trio

from server.http.reply import refusal, respond
from server.http.request import HttpRequest, bad_request
from server.http.serving import linger, whole_response

PLAIN_ON_TLS = "this port speaks TLS: use https:// and wss:// (in an SDK: tls: true)"
TLS_ON_PLAIN = "this port speaks plain HTTP, not TLS: use http:// and ws:// (in an SDK: tls: false)"
ANSWER_SECONDS = 5.0  # for a peer to receive the answer
_HTTP = re.compile(rb"[A-Z]{1,16}(?: |$)")  # a method; the first packet may hold a single letter of it
_HELLO = 0x16  # the type of TLS's first record


def is_plain_http(received: bytes) -> bool:
    """Are these the first bytes of an HTTP request, not of TLS?"""
    return _HTTP.match(received) is not None


def is_tls(received: bytes) -> bool:
    return received[:1] == bytes([_HELLO])


async def answer_mistaken(stream: trio.abc.Stream, told: str) -> None:
    """Send the explanation in the clear, and stop reading. The caller closes the stream."""
    request = HttpRequest("GET", "", {}, {}, b"", False, "")
    with trio.move_on_after(ANSWER_SECONDS) as scope:
        await stream.send_all(whole_response(respond(request, refusal(bad_request(told))), last=True))
    if not scope.cancelled_caught:
        await linger(stream)
