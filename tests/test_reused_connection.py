"""A WebSocket's request that is not the first one of its TCP connection: proxies keep connections to us, and send
whatever comes next over any of them."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Request, TextMessage

from tests.harness import KEY, request

HTTP_BEFORE = {
    "a request of the usual kind": [b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n"],
    "HEAD": [b"HEAD /time HTTP/1.1\r\nHost: x\r\n\r\n"],
    "one that is refused": [b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"],
    "the greeting": [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"] * 3,
    "an upgrade to something else": [b"GET /time HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"],
}


def post(channel, body):
    """A publish; a plain one on a plain connection is served without a task of its own."""
    head = f"POST /channels/{channel}/messages?key={KEY} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture(params=["plain", "tls"])
def kept(request, server, make_server, authority):
    """A connection that is kept, and the server at its other end."""
    with contextlib.ExitStack() as open_ones:
        if request.param == "plain":
            one = open_ones.enter_context(socket.create_connection(server.address, timeout=10))
            yield one
            return
        arguments, context = authority
        secure = make_server(arguments=arguments)
        raw = open_ones.enter_context(socket.create_connection(secure.address, timeout=10))
        yield open_ones.enter_context(context.wrap_socket(raw, server_hostname="127.0.0.1"))


def answer_to(one, data):
    """Send a request, and read one whole answer."""
    one.sendall(data)
    received = b""
    while b"\r\n\r\n" not in received:
        received += (part := one.recv(65536))
        assert part, f"the connection ended: {received!r}"
    head, _, body = received.partition(b"\r\n\r\n")
    length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    missing = 0 if data.startswith(b"HEAD") or not length else int(length[0].split(b":")[1]) - len(body)
    while missing > 0:
        missing -= len(part := one.recv(missing))
        assert part
    return int(head.split()[1])


def upgrade(format="json"):
    websocket = WSConnection(ConnectionType.CLIENT)
    return websocket, websocket.send(Request(host="x", target=f"/?key={KEY}&v=5&format={format}"))


def events_of(one, websocket, count):
    events = []
    while len(events) < count:
        data = one.recv(65536)
        assert data, f"the connection ended after {events}"
        websocket.receive_data(data)
        events += websocket.events()
    return events


def connects(one, format="json"):
    websocket, data = upgrade(format)
    one.sendall(data)
    accepted, connected = events_of(one, websocket, 2)[:2]
    assert isinstance(accepted, AcceptConnection)
    assert isinstance(connected, TextMessage if format == "json" else BytesMessage)
    return websocket, connected.data


@pytest.mark.parametrize("before", HTTP_BEFORE.values(), ids=HTTP_BEFORE.keys())
@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_a_websocket_may_begin_after_other_requests(kept, before, format):
    for data in before:
        assert answer_to(kept, data) in (200, 404)
    connects(kept, format)


@pytest.mark.parametrize(
    "body",
    [b'{"name":"n","data":"x"}', b'{"name":"n","data":"x","extras":{"headers":{"a":"b"}}}', b"[]", b"{"],
    ids=["plain", "not plain", "none", "malformed"],
)
def test_a_websocket_may_begin_after_publishes(kept, channel, body):
    for _ in range(3):
        assert answer_to(kept, post(channel, body)) == (201 if b"name" in body else 400)
    connects(kept)


def test_a_websocket_may_begin_in_the_segment_of_the_request_before_it_and_speak_at_once(kept):
    websocket, data = upgrade()
    hello = {"action": 0, "id": "at once"}
    first = HTTP_BEFORE["a request of the usual kind"][0]
    kept.sendall(first + data + frame(hello))
    received = b""
    while received.count(b"HTTP/1.1") < 2:
        received += (part := kept.recv(65536))
        assert part
    assert received.startswith(b"HTTP/1.1 200")
    websocket.receive_data(received[received.index(b"HTTP/1.1 101") :])
    events = list(websocket.events())
    while len(events) < 3:
        events += events_of(kept, websocket, 1)
    assert json.loads(events[1].data)["action"] == 4
    assert json.loads(events[2].data) == hello


def test_a_websocket_that_is_cut_in_pieces_may_begin_after_other_requests(kept):
    answer_to(kept, HTTP_BEFORE["a request of the usual kind"][0])
    websocket, data = upgrade()
    for at in range(0, len(data), 40):
        kept.sendall(data[at : at + 40])
    assert isinstance(events_of(kept, websocket, 1)[0], AcceptConnection)


@pytest.mark.parametrize("wrong", ["", "Sec-WebSocket-Version: 12\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"])
def test_an_upgrade_that_is_none_is_refused_there_as_well(kept, wrong):
    answer_to(kept, HTTP_BEFORE["a request of the usual kind"][0])
    data = f"GET /?key={KEY} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{wrong}\r\n".encode()
    assert 400 <= answer_to(kept, data) < 500


def test_a_refused_client_is_told_there_as_well(kept):
    answer_to(kept, HTTP_BEFORE["a request of the usual kind"][0])
    websocket = WSConnection(ConnectionType.CLIENT)
    kept.sendall(websocket.send(Request(host="x", target="/?key=app1.key1:wrong")))
    _, told = events_of(kept, websocket, 2)[:2]
    assert json.loads(told.data)["error"]["code"] == 40101


def test_requests_of_others_go_on_meanwhile(kept, server, channel):
    connects(kept)
    assert request(server.address, "GET", f"/channels/{channel}/messages")[0] == 200


def frame(message):
    payload = json.dumps(message).encode()
    return bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload  # under a mask of zeros
