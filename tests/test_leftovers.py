"""A connection that has ended leaves nothing behind, however it came and went: neither memory nor cycles of objects.

A cycle is given back by a collection only. A full one looks at all that is alive and holds up everybody meanwhile, so
there are very few, and what comes by the hundred thousand must not need one."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from bench.newcomers import client_hello
from tests import certificates
from tests.harness import KEY, Server, rss, wait_until
from tests.peer import NONCE, Peer
from tests.wsclient import GoneError, RefusedError, Served, WsClient

TIMES = 20  # of each kind; a few objects of the newest may still be alive when they are counted
BASIC = b"Authorization: Basic " + base64.b64encode(KEY.encode()) + b"\r\n"
UPGRADE = b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
USUAL = f"Sec-WebSocket-Key: {NONCE}\r\nSec-WebSocket-Version: 13\r\n".encode()


def says(data: bytes, *, answered: bool = True, end=Peer.close):
    """Connects, sends this, reads an answer, and goes."""

    def do(side: Served) -> None:
        one = side.peer()
        one.send(data)
        with contextlib.suppress(OSError):
            assert not answered or one.read()
        end(one)

    return do


def speaks(*messages: dict, raw: bytes = b"", end=WsClient.close, **params: str):
    """A WebSocket that says this, hears something, and goes."""

    def do(side: Served) -> None:
        client = side.client(**params)
        for message in messages:
            client.send(message)
        if raw:
            client.write(raw)
        if raw or messages:
            with contextlib.suppress(GoneError):
                client.receive()
        end(client)

    return do


def refused(side: Served) -> None:
    with pytest.raises(RefusedError):
        side.client(key="no.such:key")


def superseded(side: Served) -> None:
    first = side.client()
    side.client(resume=first.connection_key).close()
    first.drop()


def plain_to(data: bytes, *, end):
    """TCP alone, whatever the server expects on it."""

    def do(side: Served) -> None:
        one = Peer(side.server.address)
        one.send(data)
        if data:
            with contextlib.suppress(OSError):
                one.read()
        end(one)

    return do


def get(more: bytes = b"") -> bytes:
    return b"GET /time HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n"


def post(more: bytes, body: bytes = b"{x}") -> bytes:
    head = b"POST /channels/x/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return head + BASIC + more + b"\r\n" + body


ENDINGS = {
    "http, closed by us": says(get(b"Connection: close\r\n")),
    "http, closed by the peer": says(get()),
    "http, cut in a body": says(post(b"Content-Length: 99\r\n"), answered=False, end=Peer.reset),
    "http, no request at all": says(b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "http, two lengths": says(post(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n")),
    "http, too large": says(post(b"Content-Length: 30000000\r\n")),
    "http, no credentials": says(b"GET /channels/x/messages HTTP/1.1\r\nHost: x\r\n\r\n"),
    "http, no json": says(post(b"Content-Length: 3\r\n")),
    "half a head": says(b"GET /", answered=False, end=Peer.reset),
    "an upgrade that is none": says(b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n"),
    "an unusual upgrade, refused": says(b"GET /?key=a.b:c HTTP/1.1\r\n" + UPGRADE + USUAL + b"X: \xe9\r\n\r\n"),
    "a websocket, closed": speaks({"action": 10, "channel": "room"}),
    "a websocket, cut": speaks({"action": 10, "channel": "room"}, end=WsClient.drop),
    "a websocket, refused": refused,
    "a websocket, superseded": superseded,
    "a resume that fails": speaks(resume="nonsense"),
    "an attach that fails": speaks({"action": 10, "channel": ""}),
    "a publish that is refused": speaks(
        {"action": 15, "channel": "x", "msgSerial": 0, "messages": [{"data": "x" * 100_000}]}
    ),
    "an attach after a cursor of another log": speaks(
        {"action": 10, "channel": "x", "channelSerial": "000000000000001-00000@x"}
    ),
    "a rewind": speaks({"action": 10, "channel": "x", "params": {"rewind": "10"}}),
    "no frame": speaks(raw=b"\xff\x80\0\0\0\0", end=WsClient.drop),
    "no message": speaks(raw=b"\x81\x83\0\0\0\0{x}", end=WsClient.drop),
}
HELLO = client_hello(certificates.authority().client)
OF_TLS = {
    "a handshake, aborted": plain_to(HELLO, end=Peer.reset),
    "a handshake, left": plain_to(HELLO, end=Peer.close),
    "a handshake, silent": plain_to(b"", end=Peer.reset),
    "no handshake": plain_to(b"GET / HTTP/1.1\r\n\r\n", end=Peer.close),
    "a handshake, and no more": says(b"", answered=False),
}


@pytest.fixture(scope="module")
def uncollected(tmp_path_factory):
    """Servers that collect no cycles; each is made when it is first asked for."""
    made: dict[str, Served] = {}

    def make(way: str) -> Served:
        if way not in made:
            directory = tmp_path_factory.mktemp(way)
            executable = directory / "unbroken"
            root = Path(__file__).parent.parent
            executable.write_text(f'#!/bin/sh\ncd "{root}"; exec "{sys.executable}" -m tests.uncollected "$@"\n')
            executable.chmod(0o755)
            authority = certificates.authority()
            server = Server(
                directory, executable=executable, arguments=authority.arguments if way == "tls" else ()
            ).start()
            made[way] = Served(server, authority.client if way == "tls" else None)
        return made[way]

    yield make
    for side in made.values():
        side.server.stop()


def count(server: Server) -> tuple[int, str]:
    """What a collection would free now, and what it is."""
    before = server.stderr().count("uncollected ")
    os.kill(server.pid, signal.SIGUSR1)
    wait_until(lambda: server.stderr().count("uncollected ") > before, what="a count")
    line = server.stderr().rpartition("uncollected ")[2]
    return int(line.split()[0]), line


@pytest.mark.parametrize(
    "way,ending",
    [(way, ending) for way in ("plain", "tls") for ending in ENDINGS] + [("tls", ending) for ending in OF_TLS],
)
def test_no_cycle_is_left_by_a_connection(uncollected, way, ending):
    side, do = uncollected(way), (ENDINGS | OF_TLS)[ending]
    do(side)
    count(side.server)
    for _ in range(TIMES):
        do(side)
    found, line = count(side.server)
    assert found < TIMES * 2, line


def test_aborted_handshakes_leave_no_memory(make_server):
    """Once each of them left 13 kB, which no collection ever gave back."""
    authority = certificates.authority()
    server = make_server(arguments=authority.arguments)
    side, abort = Served(server, authority.client), OF_TLS["a handshake, aborted"]
    for _ in range(300):
        abort(side)
    before = rss(server.pid)
    for _ in range(1200):
        abort(side)
    assert rss(server.pid) - before < 3_000_000
