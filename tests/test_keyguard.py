"""What server.http.keyguard promises: a key comes by TLS, from this machine, or not at all."""

from __future__ import annotations

import base64
import socket
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from engine.errors import AuthError, PubSubError
from server.http.keyguard import KeyGuard, carries_key, is_loopback, peer_of
from server.http.refusals import Refusals
from server.http.request import HttpRequest, Response
from server.transport.handshake import Upgrade
from server.transport.opening import Opening, read_query
from tests import harness
from tests.harness import request
from tests.jwts import jwt
from tests.rest_server import code_of
from tests.restclient import RestClient
from tests.wsclient import RefusedError, WsClient

KEY = "app1.key1:secret"
BASIC = "Basic " + base64.b64encode(KEY.encode()).decode()
FAR = "192.0.2.1"  # an address that is nobody's


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::1%lo", True),
        ("192.0.2.1", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("0.0.0.0", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_only_this_very_machine_is_loopback(peer: str, expected: bool) -> None:
    assert is_loopback(peer) is expected


@pytest.mark.parametrize(
    ("params", "authorization", "expected"),
    [
        ({"key": KEY}, None, True),
        ({}, BASIC, True),
        ({}, " bAsIc x", True),
        ({"key": KEY, "access_token": "app1.t"}, "Bearer x", True),
        ({}, "Bearer x", False),
        ({"access_token": "app1.t"}, None, False),
        ({"key": ""}, None, False),
    ],
)
def test_a_key_is_seen_wherever_it_is_also_beside_a_token(
    params: dict[str, str], authorization: str | None, expected: bool
) -> None:
    assert carries_key(params, authorization) is expected


def test_key_in_the_clear_is_refused_unless_allowed() -> None:
    guard = KeyGuard(anywhere=False)
    with pytest.raises(AuthError) as refused:
        guard.check({"key": KEY}, None, lambda: FAR)
    assert (refused.value.code, refused.value.status) == (40103, 401)
    assert "secret" not in str(refused.value)
    guard.check({"key": KEY}, None, lambda: "127.0.0.1")
    guard.check({"key": KEY}, None, None)  # by TLS
    guard.check({"access_token": "app1.t"}, None, lambda: FAR)
    KeyGuard(anywhere=True).check({"key": KEY}, None, lambda: FAR)


def ask(guard: KeyGuard, *, peer: str, is_tls: bool = False, authorization: str = BASIC) -> Response:
    async def rest(request: HttpRequest) -> Response:
        return Response(200, [], b"in")

    asked = HttpRequest("GET", "/channels/x/messages", {}, {"authorization": authorization}, b"", is_tls, peer)
    return trio.run(guard.before(rest), asked)


def test_every_route_is_behind_it() -> None:
    guard = KeyGuard(anywhere=False)
    assert code_of(ask(guard, peer=FAR)) == (401, 40103)
    assert ask(guard, peer=FAR, is_tls=True).body == b"in"
    assert ask(guard, peer="127.0.0.1").body == b"in"
    assert ask(guard, peer=FAR, authorization="Bearer x").body == b"in"
    assert ask(KeyGuard(anywhere=True), peer=FAR).body == b"in"


@pytest.mark.parametrize("headers", [{}, {"authorization": BASIC}], ids=["query", "header"])
def test_a_websocket_is_refused_before_its_key_is_looked_at(headers: dict[str, str]) -> None:
    """So nobody learns by it whether a key is right."""

    def never(*arguments: Any) -> Any:
        raise AssertionError("the key has been looked at")

    clients: Any = SimpleNamespace(admit=lambda: None, authenticate=never)
    nobody: Any = None
    refusals = Refusals(lambda params, authorization: None)
    opening = Opening(clients, nobody, KeyGuard(anywhere=False), refusals, nobody)
    target = "/" if headers else f"/?key={KEY}"
    met = opening.meet(Upgrade(target, headers), read_query(target), lambda: FAR)
    assert isinstance(met, PubSubError) and met.code == 40103


def test_peer_address_is_found_and_the_socket_untouched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        other, _ = listener.accept()
        with other:
            assert peer_of(other.fileno()) == "127.0.0.1"
            one.sendall(b"x")
            assert other.recv(1) == b"x"
    left, right = socket.socketpair()
    with left, right:
        assert not is_loopback(peer_of(left.fileno()))  # it has no address at all
    with socket.socket() as unconnected:
        assert peer_of(unconnected.fileno()) == ""
    assert peer_of(1 << 24) == ""  # a descriptor that nobody has


def test_on_this_machine_a_key_works_over_plain_connections(server: Any) -> None:
    assert request(server.address, "GET", "/channels/x/messages")[0] == 200
    with WsClient(server.address) as client:
        assert client.connection_id


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All connect from the last of these, an address of this machine that is none of loopback.

    To find it no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((FAR, 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        found = [str(probe.getsockname()[0])]
    connect = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda address, timeout=20, *rest: connect(address, timeout, (found[-1], 0))
    )
    return found


PUBLISH = ("POST", "/channels/x/messages", {"data": "x"})
WAYS = [PUBLISH, ("GET", "/channels/x/messages", None), ("POST", "/keys/app1.key1/requestToken", {})]


def outcome(server: Any, way: tuple[str, str, Any], query: str = "", **headers: str) -> int:
    """The code of the refusal; 0: done."""
    method, path, body = way
    status, answer, _ = request(server.address, method, path + query, body, headers=headers)
    return 0 if status < 300 else int(answer["error"]["code"])


def test_remote_key_without_tls_is_refused_and_token_accepted(server: Any, source: list[str]) -> None:
    source.append("127.0.0.1")
    assert [outcome(server, PUBLISH) for _ in range(3)] == [0, 0, 0]  # what goes the short way here does not there
    source.pop()
    for way in WAYS:
        assert outcome(server, way) == 40103
        assert outcome(server, way, f"?key={harness.KEY}", Authorization="") == 40103
    with pytest.raises(RefusedError, match="40103"):
        WsClient(server.address)
    token = "Bearer " + jwt()
    assert [outcome(server, way, Authorization=token) for way in WAYS[:2]] == [0, 0]
    with WsClient(server.address, key=None, access_token=jwt()) as client:
        client.publish("x", {"data": "y"})
    basic = "Basic " + base64.b64encode(harness.KEY.encode()).decode()
    with RestClient(server.address) as rest:
        for authorization, expected in ((token, 201), (basic, 401), (token, 201), (basic, 401)):
            assert rest.post("x", {"data": "x"}, authorization=authorization).status == expected


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("options", [{"config": "tls_ended_by_proxy = true"}, {"arguments": ["--dev"]}], ids=str)
def test_key_behind_a_tls_proxy_or_in_development_is_accepted(make_server: Any, options: Any) -> None:
    server = make_server(**options)
    assert [outcome(server, way) for way in WAYS] == [0, 0, 0]
    with WsClient(server.address) as client:
        client.publish("x", {"data": "y"})
