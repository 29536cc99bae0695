"""Each operation opens what it is for and nothing else: attaching, publishing, reading, over both ways."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.auth.capability import NAMES
from tests.harness import Server, channel_path, request
from tests.jwts import jwt
from tests.test_protocol import auth, until_pong
from tests.wsclient import Action, RefusedError, WsClient

MODES = {  # flags of ATTACHED that an operation yields, if they were asked for
    "publish": 1 << 17,
    "subscribe": 1 << 18,
}
ABSENT_MODES = {  # what they would be for is not there
    "presence": 1 << 16,
    "annotation-publish": 1 << 21,
    "annotation-subscribe": 1 << 22,
    "object-subscribe": 1 << 24,
    "object-publish": 1 << 25,
}
EVERY_MODE = sum(MODES.values())
DENIED = (40160, 401)


def with_rights(server: Server, channel: str, *operations: str) -> WsClient:
    return WsClient(server.address, key=None, access_token=jwt(capability={channel: list(operations)}))


def rest(server: Server, method: str, path: str, token: str, body: Any = None) -> tuple[int, int] | None:
    """None: it was permitted; else code and status."""
    headers = {"Authorization": f"Bearer {token}"}
    status, answer, _ = request(server.address, method, path, body, headers=headers)
    if status < 300:
        return None
    error = answer["error"]
    assert error["statusCode"] == status
    return error["code"], status


@pytest.mark.parametrize("operation", [*NAMES, "*"])
def test_it_opens_what_it_is_for(server: Server, channel: str, operation: str) -> None:
    may_publish, may_read = (operation in (each, "*") for each in ("publish", "history"))
    modes = EVERY_MODE if operation == "*" else MODES.get(operation, 0)
    with with_rights(server, channel, operation) as client:
        client.send({"action": Action.ATTACH, "channel": channel, "flags": EVERY_MODE})
        if modes:
            assert client.expect(Action.ATTACHED)["flags"] & EVERY_MODE == modes
        else:
            error = client.expect(Action.ERROR)
            assert (error["channel"], error["error"]["code"], error["error"]["statusCode"]) == (channel, *DENIED)
        if may_publish:
            client.publish(channel, {"data": "x"})
        else:
            with pytest.raises(RefusedError) as refused:
                client.publish(channel, {"data": "x"})
            assert (refused.value.code, refused.value.status) == DENIED
        with pytest.raises(RefusedError, match="40160"):
            client.publish(channel + "2", {"data": "x"})
    token = jwt(capability={channel: [operation]})
    path, other = channel_path(channel), channel_path(channel + "2")
    assert rest(server, "POST", path, token, {"data": "x"}) == (None if may_publish else DENIED)
    assert rest(server, "GET", path, token) == (None if may_read else DENIED)
    assert rest(server, "POST", other, token, {"data": "x"}) == rest(server, "GET", other, token) == DENIED


@pytest.mark.parametrize(("rights", "expected"), [(["publish"], DENIED), (["publish", "privileged-headers"], None)])
def test_privileged_extras_need_their_own_right(server: Server, channel: str, rights: list[str], expected: Any) -> None:
    message = {"data": "x", "extras": {"privileged": {"a": 1}}}
    with with_rights(server, channel, *rights) as client:
        if expected is None:
            client.publish(channel, message)
        else:
            with pytest.raises(RefusedError, match="40160"):
                client.publish(channel, message)
    assert rest(server, "POST", channel_path(channel), jwt(capability={channel: rights}), message) == expected


def test_a_name_is_judged_without_its_params(server: Server, channel: str) -> None:
    with with_rights(server, channel, "subscribe", "publish") as client:
        for name in (channel, f"[?rewind=1]{channel}"):
            assert client.attach(name)["flags"] & MODES["subscribe"]
            client.publish(name, {"data": "x"})
        with pytest.raises(RefusedError, match="40160"):
            client.attach(f"[?rewind=1]{channel}2")


def test_mode_not_requested_is_not_granted_by_more_rights(server: Server, channel: str) -> None:
    with WsClient(server.address) as other, with_rights(server, channel, "subscribe") as client:
        client.send({"action": Action.ATTACH, "channel": channel, "flags": MODES["publish"] | (1 << 18)})
        assert client.expect(Action.ATTACHED)["flags"] & EVERY_MODE == 1 << 18
        # What is said while it may not read comes when it may again.
        steps = [(["subscribe", "publish"], True, 1), (["publish"], True, 0), (["subscribe", "presence"], False, 2)]
        for rights, publishes, heard in steps:
            auth(client, jwt(capability={channel: rights}))
            client.expect(Action.CONNECTED)
            client.send_messages(channel, [{"data": "own"}])
            answer = client.expect(Action.ACK if publishes else Action.NACK)
            assert publishes or answer["error"]["code"] == 40160
            other.publish(channel, {"data": "theirs"})
            seen = [m["data"] for pm in until_pong(client) if pm["action"] == Action.MESSAGE for m in pm["messages"]]
            assert seen.count("theirs") == heard
        auth(client, jwt(capability=json.dumps({channel: ["presence"]})))
        assert client.expect(Action.ERROR)["error"]["code"] == 40160
