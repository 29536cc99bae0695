"""Who a client is, and as whom it may publish: the protocol's two tables, for all credentials, over both ways."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from tests.harness import KEY, Server, channel_path, history, request, token
from tests.jwts import jwt
from tests.test_protocol import auth, ended_with, refusal
from tests.wsclient import Action, RefusedError, WsClient

FULL = {"*": ["*"]}
ANY, NOBODY = "*", None

WHO = [  # kind of credentials, their clientId, the one that is asserted, who it is or the code of the refusal
    ("key", None, None, ANY),
    ("key", None, "x", "x"),
    ("key", None, "*", ANY),
    ("key", None, "", 40012),
]
for kind in ("token", "jwt"):
    WHO += [
        (kind, None, None, NOBODY),
        (kind, None, "x", 40102),
        (kind, "x", None, "x"),
        (kind, "x", "x", "x"),
        (kind, "x", "y", 40102),
        (kind, "*", None, ANY),
        (kind, "*", "*", ANY),
        (kind, "*", "y", "y"),
    ]

SPEAKS = [  # who it is, the message's clientId, what is delivered or the code of the refusal
    ("x", None, "x"),
    ("x", "x", "x"),
    ("x", "y", 40012),
    (ANY, None, None),
    (ANY, "x", "x"),
    (NOBODY, None, None),
    (NOBODY, "x", 40012),
    *((who, "*", 40012) for who in ("x", ANY, NOBODY)),
]


def credentials(server: Server, kind: str, client_id: str | None) -> str | None:
    """A token, or None: the key."""
    if kind == "key":
        return None
    return jwt(client_id=client_id) if kind == "jwt" else token(server.address, FULL, client_id=client_id)


def by_websocket(server: Server, kind: str, of_token: str | None, asserted: str | None) -> dict[str, Any]:
    """The options of a WsClient."""
    given = credentials(server, kind, of_token)
    options: dict[str, Any] = {} if given is None else {"key": None, "access_token": given}
    return options if asserted is None else {**options, "clientId": asserted}


def by_rest(server: Server, kind: str, of_token: str | None, asserted: str | None) -> dict[str, str]:
    """Headers."""
    given = credentials(server, kind, of_token)
    word, text = ("Basic", KEY) if given is None else ("Bearer", given)
    headers = {"Authorization": f"{word} {base64.b64encode(text.encode()).decode()}"}
    if asserted is not None:
        headers["X-Ably-ClientId"] = base64.b64encode(asserted.encode()).decode()
    return headers


def test_an_upgrade_may_carry_credentials_in_its_header(server: Server) -> None:
    for kind, of_token, asserted, expected in WHO:
        authorization = by_rest(server, kind, of_token, None)["Authorization"]
        options: dict[str, Any] = {"key": None, "authorization": authorization}
        if asserted is not None:
            options["clientId"] = asserted
        if isinstance(expected, int):
            assert refusal(server.address, **options)[0] == expected
        else:
            with WsClient(server.address, **options) as client:
                assert client.connected["connectionDetails"].get("clientId") == expected
    assert refusal(server.address, key=None, authorization="Bearer nonsense") == (40101, 401)
    with WsClient(server.address, key=None, authorization="Basic nonsense", access_token=jwt(client_id="x")) as client:
        assert client.connected["connectionDetails"]["clientId"] == "x", "the query comes before the header"


def publish(server: Server, headers: dict[str, str], channel: str, **message: Any) -> tuple[int, int]:
    status, body, _ = request(server.address, "POST", channel_path(channel), {"data": "d", **message}, headers=headers)
    return status, 0 if status == 201 else int(body["error"]["code"])


@pytest.mark.parametrize(("kind", "of_token", "asserted", "expected"), WHO)
def test_who_a_connection_is(
    server: Server, channel: str, kind: str, of_token: str | None, asserted: str | None, expected: str | int | None
) -> None:
    options = by_websocket(server, kind, of_token, asserted)
    if isinstance(expected, int):
        assert refusal(server.address, **options)[0] == expected
        return
    with WsClient(server.address, **options) as client:
        assert client.connected["connectionDetails"].get("clientId") == expected
        client.attach(channel)
        client.publish(channel, {"data": "d"})
        assert client.deliveries(channel, 1)[0].get("clientId") == (None if expected == ANY else expected)


@pytest.mark.parametrize(("kind", "of_token", "asserted", "expected"), WHO)
def test_who_a_rest_request_is(
    server: Server, channel: str, kind: str, of_token: str | None, asserted: str | None, expected: str | int | None
) -> None:
    headers = by_rest(server, kind, of_token, asserted)
    answer = publish(server, headers, channel)
    if isinstance(expected, int):
        assert answer == (expected // 100, expected)
        assert request(server.address, "GET", channel_path(channel), headers=headers)[0] == expected // 100
        return
    assert answer == (201, 0)
    assert history(server.address, channel)[0].get("clientId") == (None if expected == ANY else expected)


@pytest.mark.parametrize(("who", "message", "expected"), SPEAKS)
@pytest.mark.parametrize("kind", ["key", "token", "jwt"])
def test_as_whom_it_may_publish(
    server: Server, channel: str, kind: str, who: str | None, message: str | None, expected: str | int | None
) -> None:
    """By WebSocket and by REST alike, also in the middle of an array, which is then refused as a whole."""
    if kind == "key" and who is NOBODY:
        kind = "token"  # a key is always somebody
    claims = (None, None if who == ANY else who) if kind == "key" else (who, None)
    fields = {} if message is None else {"clientId": message}
    headers = by_rest(server, kind, *claims)
    with WsClient(server.address, **by_websocket(server, kind, *claims)) as client:
        if isinstance(expected, int):
            for messages in ([fields], [{}, fields, {}]):
                with pytest.raises(RefusedError) as refused:
                    client.publish(channel, *messages)
                assert (refused.value.code, refused.value.status) == (expected, 400)
                status, body, _ = request(server.address, "POST", channel_path(channel), messages, headers=headers)
                assert (status, body["error"]["code"]) == (400, expected)
            assert history(server.address, channel) == []
            client.publish(channel, {"data": "the connection goes on"})
            return
        client.publish(channel, {"data": "d", **fields})
    assert publish(server, headers, channel, **fields) == (201, 0)
    assert [stored.get("clientId") for stored in history(server.address, channel)] == [expected, expected]


def test_a_client_id_that_is_no_base64_is_refused(server: Server, channel: str) -> None:
    for value in ("***", base64.b64encode(b"\xff").decode()):
        headers = {**by_rest(server, "key", None, None), "X-Ably-ClientId": value}
        assert publish(server, headers, channel) == (400, 40012)


def test_a_client_id_that_is_asked_about_is_nobodys_claim(server: Server, channel: str) -> None:
    headers = by_rest(server, "token", "x", None)
    assert request(server.address, "GET", channel_path(channel) + "?clientId=y", headers=headers)[0] == 200


@pytest.mark.parametrize(
    ("before", "asserted", "after", "told"),
    [
        ("x", None, "x", "x"),
        ("x", None, "*", "x"),
        ("*", "x", "*", "x"),
        ("*", "x", "x", "x"),
        ("*", None, "*", ANY),
        (None, None, None, None),
        (None, None, "*", None),  # it stays nobody: that is how its messages have been published so far
        ("x", None, "y", 40102),
        ("x", None, None, 40102),
        ("*", None, "x", 40102),
        ("*", None, None, 40102),
        (None, None, "x", 40102),
    ],
)
@pytest.mark.parametrize("kind", ["token", "jwt"])
def test_new_credentials_must_be_those_of_the_same_client(
    server: Server, channel: str, kind: str, before: str | None, asserted: str | None, after: str | None, told: Any
) -> None:
    renewed = credentials(server, kind, after)
    with WsClient(server.address, **by_websocket(server, kind, before, asserted)) as client:
        client.attach(channel)
        client.publish(channel, {"data": "before"})
        auth(client, renewed)
        if told == 40102:
            error = ended_with(client, Action.ERROR)["error"]
            assert (error["code"], error["statusCode"]) == (40102, 401)
            return
        connected = client.expect(Action.CONNECTED)
        assert connected == client.connected
        assert connected["connectionDetails"].get("clientId") == told
        client.publish(channel, {"data": "after"})
        found = [message.get("clientId") for message in client.deliveries(channel, 2)]
        assert found == [None if told == ANY else told] * 2


def test_connection_lives_as_long_as_its_newest_token(server: Server) -> None:
    def coming(seconds: float) -> str:
        return jwt(client_id="x", iat=time.time(), exp=time.time() + seconds)

    with (
        WsClient(server.address, key=None, access_token=coming(60)) as shorter,
        WsClient(server.address, key=None, access_token=coming(1)) as longer,
    ):
        begun = time.monotonic()
        auth(shorter, coming(1))
        auth(longer, coming(25))  # for which nobody is asked for another
        assert ended_with(shorter, Action.DISCONNECTED)["error"]["code"] == 40142
        assert 0.9 < time.monotonic() - begun < 10
        longer.expect(Action.CONNECTED)
        longer.send({"action": Action.HEARTBEAT, "id": "later"})
        assert longer.receive()["action"] == Action.HEARTBEAT, "neither ended nor asked"


def test_new_credentials_must_be_those_of_the_same_app(make_server: Any) -> None:
    server = make_server(config='[[apps]]\nid = "app2"\nkeys = ["app2.key1:topsecret"]\n')
    with WsClient(server.address, key=None, access_token=jwt(client_id="x")) as client:
        auth(client, jwt(key="app2.key1:topsecret", client_id="x"))
        error = ended_with(client, Action.ERROR)["error"]
        assert (error["code"], error["statusCode"]) == (40102, 401)


@pytest.mark.parametrize("kind", ["token", "jwt"])
def test_reduced_rights_end_only_what_they_forbid(server: Server, channel: str, kind: str) -> None:
    def narrowed(rights: dict[str, list[str]]) -> str:
        return jwt(capability=json.dumps(rights)) if kind == "jwt" else token(server.address, rights)

    kept, lost, mute = (f"{channel}:{name}" for name in ("kept", "lost", "mute"))
    with WsClient(server.address) as other, WsClient(server.address, key=None, access_token=narrowed(FULL)) as client:
        for name in (kept, lost, mute):
            client.attach(name)
            client.publish(name, {"data": "granted"})  # so that the next would go the short way
        auth(client, narrowed({kept: ["*"], mute: ["subscribe"]}))
        for name in (kept, lost, mute):  # with the AUTH, in one stream of bytes
            client.send_messages(name, [{"data": "own"}])
        error = client.expect(Action.ERROR)
        assert (error["channel"], error["error"]["code"], error["error"]["statusCode"]) == (lost, 40160, 401)
        client.expect(Action.CONNECTED)
        client.expect(Action.ACK)
        for _ in range(2):
            assert client.expect(Action.NACK)["error"]["code"] == 40160
        for name in (lost, mute):  # by themselves, when the short way would be free again
            with pytest.raises(RefusedError) as refused:
                client.publish(name, {"data": "own"})
            assert refused.value.code == 40160
        for name in (kept, lost, mute):
            other.publish(name, {"data": "theirs"})
        assert [message["data"] for message in client.deliveries(kept, 3)] == ["granted", "own", "theirs"]
        assert [message["data"] for message in client.deliveries(mute, 2)] == ["granted", "theirs"]
    assert [message["data"] for message in history(server.address, lost)] == ["granted", "theirs"]
