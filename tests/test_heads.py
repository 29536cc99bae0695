"""Heads of requests that are refused, by every way that a request comes in: first of its connection or a later one,
over plain connections and TLS, to be served without a task, by h11, or as a request for a WebSocket. Each refusal has
a body that says why."""

from __future__ import annotations

import base64

import pytest

from tests.harness import KEY
from tests.peer import CLOSE, Peer, frame, upgrade
from tests.wsclient import Served

BASIC = base64.b64encode(KEY.encode()).decode()
TIME = b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n"
MOST = 16 * 1024  # request_head_bytes


def post(fields: str = "", body: bytes = b'{"data":"x"}', version: str = "1.1") -> bytes:
    """A publish, of the kind that is served without a task."""
    length = "" if "Transfer-Encoding" in fields else f"Content-Length: {len(body)}\r\n"
    line = f"POST /channels/heads/messages HTTP/{version}\r\nHost: x\r\nAuthorization: Basic {BASIC}\r\n"
    return f"{line}Content-Type: application/json\r\n{length}{fields}\r\n".encode() + body


def of_size(request: bytes, size: int) -> bytes:
    """The same with a head of so many bytes."""
    head, end, body = request.partition(b"\r\n\r\n")
    filler = size - len(head) - len(end) - len("\r\nX-Filler: ")
    return head + b"\r\nX-Filler: " + b"y" * filler + end + body


BEFORE = {"first": [], "second": [TIME], "after a publish": [post()], "after both": [TIME, post(), TIME]}
KINDS = {
    "GET": TIME,
    "publish": post(),
    "publish by h11": post("X-More: 1\r\nExpect: 100-continue\r\n"),
    "usual upgrade": upgrade(),
    "unusual upgrade": upgrade(more="Content-Length: 0\r\n"),
}
before_it = pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())


def sent_before(peer: Peer, before: list[bytes]) -> None:
    for each in before:
        peer.send(each)
        assert peer.answer()[0] in (200, 201)


@before_it
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("over", [1, 100, 5000], ids=["by one", "by 100", "by 5,000"])
def test_a_head_above_the_limit_is_refused_on_every_way_in(
    served: Served, before: list[bytes], kind: bytes, over: int
) -> None:
    with served.peer() as peer:
        sent_before(peer, before)
        peer.send(of_size(kind, MOST + over))
        assert peer.refusal() == (431, 40000, f"the request head is larger than {MOST} bytes")
        assert peer.hears_end()


@before_it
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_head_of_exactly_the_limit_is_served_on_every_way_in(
    served: Served, before: list[bytes], kind: bytes
) -> None:
    with served.peer() as peer:
        sent_before(peer, before)
        peer.send(of_size(kind, MOST))
        if b"Upgrade:" in kind:
            assert peer.told(2) == ["101", "CONNECTED"]
        else:
            status = peer.answer()[0]
            assert (peer.answer()[0] if status == 100 else status) in (200, 201)


def test_the_limit_of_a_head_is_the_operator_s(make_server, authority) -> None:  # type: ignore[no-untyped-def]
    config = "[limits]\nrequest_head_bytes = 1024\n"
    for arguments, tls in (((), None), authority):
        small = Served(make_server(arguments=arguments, config=config), tls)
        for kind in KINDS.values():
            with small.peer() as peer:
                peer.send(of_size(kind, 1025))
                assert peer.refusal()[:2] == (431, 40000)
            with small.peer() as peer:
                peer.send(of_size(kind, 1024))
                assert peer.told(1)[0] in ("100", "101", "200", "201")


CHUNKED = "Transfer-Encoding: chunked\r\n"
TWO_LENGTHS = {
    "a publish in HTTP/1.0, in chunks": post(CHUNKED, b"c\r\n" + b'{"data":"x"}' + b"\r\n0\r\n\r\n", "1.0"),
    "a publish in HTTP/1.0, in chunks that it keeps alive": post(
        CHUNKED + "Connection: keep-alive\r\n", b"0\r\n\r\n", "1.0"
    ),
    "a GET in HTTP/1.0, in chunks": f"GET /time HTTP/1.0\r\nHost: x\r\n{CHUNKED}\r\n0\r\n\r\n".encode(),
    "an upgrade in HTTP/1.0, in chunks": upgrade(more=CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "both lengths in HTTP/1.0": post(CHUNKED + "Content-Length: 5\r\n", b"0\r\n\r\n", "1.0"),
    "both lengths": post(CHUNKED + "Content-Length: 5\r\n", b"0\r\n\r\n"),
    "both lengths of an upgrade": upgrade(more=CHUNKED + "Content-Length: 5\r\n"),
}


@before_it
@pytest.mark.parametrize("sent", TWO_LENGTHS.values(), ids=TWO_LENGTHS.keys())
def test_body_of_ambiguous_length_is_refused_with_all_behind_it(
    served: Served, before: list[bytes], sent: bytes
) -> None:
    with served.peer() as peer:
        sent_before(peer, before)
        peer.send(sent + TIME)
        assert peer.refusal()[:2] == (400, 40008)
        assert peer.hears_end()


def without(field: str) -> bytes:
    return b"\r\n".join(line for line in upgrade().split(b"\r\n") if not line.lower().startswith(field.encode() + b":"))


def instead(field: str, value: str) -> bytes:
    whole = without(field)
    return whole[:-2] + f"{field}: {value}\r\n\r\n".encode()


REFUSED = {
    "another path": (upgrade(path="/nowhere"), 404, 40400, "/nowhere does not accept WebSockets; connect to /"),
    "the path of a route": (upgrade(path="/time"), 404, 40400, "/time does not accept WebSockets"),
    "two slashes": (upgrade(path="//"), 404, 40400, "// does not accept WebSockets"),
    "another path, whole": (upgrade(path="http://x/nowhere"), 404, 40400, "/nowhere does not accept WebSockets"),
    "POST": (upgrade().replace(b"GET", b"POST", 1), 405, 40500, "POST cannot open a WebSocket"),
    "HEAD": (upgrade().replace(b"GET", b"HEAD", 1), 405, 40500, ""),
    "HTTP/1.0": (upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"), 400, 40000, "HTTP/1.1"),
    "no Upgrade": (without("upgrade"), 400, 40000, "Upgrade: must be websocket; does a proxy"),
    "another Upgrade": (instead("upgrade", "h2c"), 400, 40000, "Upgrade: must be websocket"),
    "no Connection": (without("connection"), 400, 40000, "Connection: must name upgrade"),
    "another Connection": (instead("connection", "keep-alive"), 400, 40000, "Connection: must name upgrade"),
    "no version": (without("sec-websocket-version"), 426, 40000, "Sec-WebSocket-Version: must be 13, is missing"),
    "version 8": (instead("sec-websocket-version", "8"), 426, 40000, "Sec-WebSocket-Version: must be 13, got '8'"),
    "no key": (without("sec-websocket-key"), 400, 40000, "Sec-WebSocket-Key: is missing"),
    "a short key": (instead("sec-websocket-key", "c2hvcnQ="), 400, 40000, "Sec-WebSocket-Key: must be base64"),
    "a key that is no base64": (instead("sec-websocket-key", "%" * 24), 400, 40000, "Sec-WebSocket-Key: must be"),
    "no Host": (without("host"), 400, 40000, "Host"),
    "a Host that is no ASCII": (instead("host", "h\xf6st"), 400, 40000, "Host: must be ASCII"),
    "a body": (upgrade(more="Content-Length: 5\r\n") + b"12345", 400, 40000, "must not have a body"),
    "a body in chunks": (upgrade(more=CHUNKED) + b"0\r\n\r\n", 400, 40000, "must not have a body"),
    "more than a WebSocket": (instead("upgrade", "websocket, foo"), 400, 40000, "malformed"),
    "a sub-protocol of others": (
        upgrade(more="Sec-WebSocket-Protocol: mqtt\r\n"),
        400,
        40000,
        "Sec-WebSocket-Protocol: belongs to the MQTT protocol",
    ),
}


@before_it
@pytest.mark.parametrize(("sent", "status", "code", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_upgrade_has_a_body_with_code_and_reason(
    served: Served, before: list[bytes], sent: bytes, status: int, code: int, says: str
) -> None:
    with served.peer() as peer:
        sent_before(peer, before)
        peer.send(sent)
        if sent.startswith(b"HEAD"):
            told, headers = peer.head()
            assert (told, headers["x-ably-errorcode"], headers["allow"]) == (status, str(code), "GET")
        else:
            told, errorcode, message = peer.refusal()
            assert (told, errorcode) == (status, code)
            assert says in message
        assert peer.hears_end()


def test_wrong_protocol_version_is_told_the_supported_one(served: Served) -> None:
    with served.peer() as peer:
        peer.send(instead("sec-websocket-version", "8"))
        status, headers, _ = peer.answer()
        assert (status, headers["sec-websocket-version"], headers["upgrade"]) == (426, "13", "websocket")


@pytest.mark.parametrize(
    "sent",
    [
        upgrade(path="http://x/"),
        upgrade(more="X-More: 1\r\nX-More: 2\r\n"),
        upgrade(more="Content-Length: 0\r\n"),
        upgrade(more="Sec-WebSocket-Protocol: mine\r\n"),
        upgrade(more="X-Name: h\xf6\r\n"),
        instead("connection", "keep-alive, Upgrade"),
        instead("upgrade", "WebSocket"),
        upgrade().replace(b"GET /?", b"GET ?", 1),
    ],
    ids=["whole target", "repeated", "no body", "sub-protocol", "no ASCII", "kept alive", "case", "no path"],
)
@before_it
def test_what_is_unusual_about_an_upgrade_and_right_is_taken(served: Served, before: list[bytes], sent: bytes) -> None:
    with served.peer() as peer:
        sent_before(peer, before)
        peer.send(sent + frame(CLOSE))
        assert peer.told() == ["101", "CONNECTED", "close 1000"]


OTHERS = {
    "/app/key1": "Pusher",
    "/apps/1/events": "Pusher",
    "/socket.io/": "Socket.IO",
    "/engine.io/": "Engine.IO",
    "/sockjs/info": "SockJS",
    "/echo/123/abcdef/websocket": "SockJS",
    "/echo/123/abcdef/xhr_streaming": "SockJS",
    "/connection/websocket": "Centrifugo",
    "/connection/sockjs/info": "Centrifugo",
    "/graphql": "GraphQL",
    "/socket/websocket": "Phoenix Channels",
    "/realtime/v1/websocket": "Phoenix Channels",
    "/cable": "Action Cable",
    "/mqtt": "MQTT",
    "/.well-known/mercure": "Mercure",
}


@pytest.mark.parametrize(("path", "protocol"), OTHERS.items())
def test_a_path_of_another_protocol_is_refused_by_its_name(served: Served, path: str, protocol: str) -> None:
    for sent in (
        f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        f"POST {path}?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n40".encode(),
        upgrade(path=path),
        upgrade(path=path, more="X-More: 1\r\nX-More: 2\r\n"),
    ):
        with served.peer() as peer:
            peer.send(sent)
            status, code, message = peer.refusal()
            assert (status, code) == (404, 40400)
            assert path in message and f"belongs to the {protocol} protocol" in message


def test_path_that_resembles_another_protocol_is_not_named(served: Served) -> None:
    for path in ("/application", "/apps/1/settings", "/channels/app/nothing", "/socket", "/x/y/websocket"):
        with served.peer() as peer:
            peer.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert peer.refusal()[2].startswith("unknown route: ")
