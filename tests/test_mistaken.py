"""Who speaks plain HTTP to a port with TLS, or TLS to a plain one, is told so at once, and harms nobody."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from server.transport.mistaken import is_plain_http, is_tls
from tests.harness import Server, request
from tests.rawclient import RawClient

UPGRADE = (
    b"GET /?key=app1.key1:secret&v=5 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
POST = b"POST /channels/x/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: Any) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("secure"), arguments=authority[0]) as server:
        yield server
    assert not server.complaints(), server.complaints()


def answer_to(server: Server, *pieces: bytes) -> bytes:
    """All that comes until the server has closed. The pieces go out one by one."""
    with socket.create_connection(server.address, timeout=20) as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            one.sendall(piece)
        received = b""
        while data := one.recv(4096):
            received += data
        return received


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
        (UPGRADE,),
        (UPGRADE, b"\x81\x80\0\0\0\0"),
        (POST + b'{"data": "x"',),
        (POST + b"x" * 1_000_000,),
        (b"PROPFIND / HTTP/1.0\r\n\r\n",),
    ],
    ids=["GET", "a letter", "half a line", "WebSocket", "and a frame", "POST", "a large one", "another method"],
)
def test_plain_http_to_a_port_with_tls_is_told_so(secure: Server, authority: Any, pieces: tuple[bytes, ...]) -> None:
    assert "https:// and wss://" in refusal_of(answer_to(secure, *pieces))["message"]
    with RawClient(secure.address, tls=authority[1]) as client:
        client.publish("room", {"data": "x"})


def test_a_client_library_shows_it(secure: Server) -> None:
    status, body, _ = request(secure.address, "GET", "/time")
    assert (status, body["error"]["code"]) == (400, 40000)
    assert "TLS" in body["error"]["message"]


def test_who_does_not_take_the_answer_or_goes_on_and_on_is_cut_off(secure: Server) -> None:
    with socket.create_connection(secure.address, timeout=20) as one, contextlib.suppress(ConnectionError):
        for _ in range(200):  # 13 MB, and then it would still go on
            one.sendall(b"GET / " * 11_000)
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
    with socket.create_connection(secure.address, timeout=20) as one:
        one.sendall(received)
        one.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while data := one.recv(4096):
                answer += data
    assert answer[:1] in (b"\x15", b""), answer


def test_a_version_of_tls_that_is_not_spoken_is_refused_with_an_alert(secure: Server, authority: Any) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="x").do_handshake()
    hello = bytearray(outgoing.read())
    extension = hello.index(b"\x00\x2b")  # supported_versions
    length = int.from_bytes(hello[extension + 2 : extension + 4], "big")
    hello[extension + 4 : extension + 4 + length] = bytes([length - 1]) + b"\x03\x01" * ((length - 1) // 2)  # TLS 1.0
    alert = answer_to(secure, bytes(hello))
    assert (alert[0], alert[-1]) == (0x15, 70), "protocol_version"


@pytest.mark.parametrize("split", [0, 1, 200], ids=["whole", "after a byte", "in two"])
def test_tls_to_a_plain_port_is_told_so_at_once(server: Server, split: int) -> None:
    """And not when the time for a head is over, ten seconds later."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="x").do_handshake()
    hello = outgoing.read()
    assert "http:// and ws://" in refusal_of(answer_to(server, hello[:split], hello[split:]))["message"]
    with (
        socket.create_connection(server.address, timeout=20) as one,
        pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number|record layer|http.request"),
    ):
        ssl.create_default_context().wrap_socket(one, server_hostname="x")


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
