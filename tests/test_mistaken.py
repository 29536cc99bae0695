"""Who speaks plain HTTP to a port with TLS, or TLS to a plain one, is told so at once, and harms nobody."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from bench.newcomers import client_hello
from server.transport.mistaken import is_plain_http, is_tls
from tests.harness import Server, request
from tests.peer import TEXT, GoneError, Peer, all_said_to, frame, upgrade
from tests.wsclient import WsClient

POST = b"POST /channels/x/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: Any) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("secure"), arguments=authority[0]) as server:
        yield server
    assert not server.complaints(), server.complaints()


def refusal_of(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), answer
    assert b"\r\nConnection: close" in head and b"\r\nContent-Type: application/json" in head
    assert b"\r\nX-Ably-Errorcode: 40000" in head
    error: dict[str, Any] = json.loads(body)["error"]
    assert (error["code"], error["statusCode"]) == (40000, 400)
    return error


@pytest.mark.parametrize(
    "pieces",
    [
        (b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n",),
        (b"G",),
        (b"GET /ti",),
        (upgrade(),),
        (upgrade(), frame(TEXT)),
        (POST + b'{"data": "x"',),
        (POST + b"x" * 1_000_000,),
        (b"PROPFIND / HTTP/1.0\r\n\r\n",),
    ],
    ids=["GET", "a letter", "half a line", "WebSocket", "and a frame", "POST", "a large one", "another method"],
)
def test_plain_http_to_a_port_with_tls_is_told_so(secure: Server, authority: Any, pieces: tuple[bytes, ...]) -> None:
    assert "https:// and wss://" in refusal_of(all_said_to(secure.address, *pieces))["message"]
    with WsClient(secure.address, tls=authority[1]) as client:
        client.publish("room", {"data": "x"})


def test_a_client_library_shows_it(secure: Server) -> None:
    status, body, _ = request(secure.address, "GET", "/time")
    assert (status, body["error"]["code"]) == (400, 40000)
    assert "TLS" in body["error"]["message"]


def test_peer_that_ignores_the_answer_or_goes_on_is_cut_off(secure: Server) -> None:
    with Peer(secure.address) as one, contextlib.suppress(GoneError):
        for _ in range(200):  # 13 MB, and then it would still go on
            one.send(b"GET / " * 11_000)
        pytest.fail("it may send without end")


@pytest.mark.parametrize(
    "received",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x80\x2e\x01\x00\x02",
        b"\0" * 20,
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x03\x01\x00\x05garbage",
    ],
    ids=["SSH", "SSL 2", "zeros", "Redis", "a record of garbage"],
)
def test_what_is_neither_gets_an_alert_of_tls_or_nothing(secure: Server, received: bytes) -> None:
    answer = all_said_to(secure.address, received, ends=True)
    assert answer[:1] in (b"\x15", b""), answer


def test_unsupported_tls_version_is_refused_with_an_alert(secure: Server, authority: Any) -> None:
    hello = bytearray(client_hello(ssl.create_default_context()))
    extension = hello.index(b"\x00\x2b")  # supported_versions
    length = int.from_bytes(hello[extension + 2 : extension + 4], "big")
    hello[extension + 4 : extension + 4 + length] = bytes([length - 1]) + b"\x03\x01" * ((length - 1) // 2)  # TLS 1.0
    alert = all_said_to(secure.address, bytes(hello))
    assert (alert[0], alert[-1]) == (0x15, 70), "protocol_version"


@pytest.mark.parametrize("split", [0, 1, 200], ids=["whole", "after a byte", "in two"])
def test_tls_to_a_plain_port_is_told_so_at_once(server: Server, split: int) -> None:
    """And not when the time for a head is over, ten seconds later."""
    hello = client_hello(ssl.create_default_context())
    assert "http:// and ws://" in refusal_of(all_said_to(server.address, hello[:split], hello[split:]))["message"]
    with pytest.raises(GoneError, match=r"(?i)wrong.version.number|record layer|http.request"):
        Peer(server.address, ssl.create_default_context())


@pytest.mark.parametrize(
    ("received", "plain", "tls"),
    [
        (b"GET / HTTP/1.1", True, False),
        (b"OPTIONS * HTTP/1.1", True, False),
        (b"M-SEARCH * HTTP/1.1", False, False),
        (b"get / HTTP/1.1", False, False),
        (b"SSH-2.0-x", False, False),
        (b"A" * 17, False, False),
        (b"\x16\x03\x01", False, True),
        (b"\x15\x03\x01", False, False),
        (b"", False, False),
    ],
)
def test_first_bytes_say_which_it_is(received: bytes, plain: bool, tls: bool) -> None:
    assert (is_plain_http(received), is_tls(received)) == (plain, tls)
