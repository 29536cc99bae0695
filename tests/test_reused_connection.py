"""A WebSocket's request that is not the first one of its TCP connection: proxies keep connections to us, and send
whatever comes next over any of them."""

from __future__ import annotations

import pytest

from tests.harness import KEY, request
from tests.peer import message, upgrade

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


@pytest.fixture
def kept(served):
    """A connection that is kept."""
    with served.peer() as peer:
        yield peer


def answer_to(peer, data):
    """Send a request, and read one whole answer."""
    peer.send(data)
    return peer.answer(body=not data.startswith(b"HEAD"))[0]


def connects(peer, format="json"):
    peer.send(upgrade(format))
    assert peer.told(2) == ["101", "CONNECTED"]
    assert peer.formats == {format}


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


def test_websocket_may_begin_in_the_segment_of_a_request(kept):
    first = HTTP_BEFORE["a request of the usual kind"][0]
    kept.send(first + upgrade() + message({"action": 0, "id": "at once"}))
    assert kept.answer()[0] == 200
    assert kept.told(3) == ["101", "CONNECTED", "HEARTBEAT at once"]


def test_websocket_in_pieces_may_follow_other_requests(kept):
    answer_to(kept, HTTP_BEFORE["a request of the usual kind"][0])
    data = upgrade()
    for at in range(0, len(data), 40):
        kept.send(data[at : at + 40])
    assert kept.told(1) == ["101"]


@pytest.mark.parametrize("wrong", ["", "Sec-WebSocket-Version: 12\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"])
def test_an_upgrade_that_is_none_is_refused_there_as_well(kept, wrong):
    answer_to(kept, HTTP_BEFORE["a request of the usual kind"][0])
    data = f"GET /?key={KEY} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{wrong}\r\n".encode()
    assert 400 <= answer_to(kept, data) < 500


def test_a_refused_client_is_told_there_as_well(kept):
    answer_to(kept, HTTP_BEFORE["a request of the usual kind"][0])
    kept.send(upgrade(key="app1.key1:wrong"))
    assert kept.told() == ["101", "ERROR 40101/401", "close 1000"]


def test_requests_of_others_go_on_meanwhile(kept, served, channel):
    connects(kept)
    assert request(served.server.address, "GET", f"/channels/{channel}/messages", tls=served.tls)[0] == 200
