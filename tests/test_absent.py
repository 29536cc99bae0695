"""What the protocol has and the server has not: refused wherever it is asked for, with a code and by its name.

What libraries ask for by default is left out, and all else goes on. test_sdk_absent.py looks at it as users do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine import absent
from server.realtime.actions import Flag
from server.realtime.modes import ALL_MODES
from tests.certificates import authority
from tests.harness import Server, channel_path, history
from tests.jwts import jwt
from tests.restclient import FORMATS, RestClient
from tests.test_protocol import auth, until_pong
from tests.test_protocol_channels import with_rights
from tests.ways import refusal, ways
from tests.wsclient import RESUMED, Action, RefusedError, WsClient

THERE = Flag.PUBLISH | Flag.SUBSCRIBE
SAYS = "not available on this server"
MODES = {
    "presence": Flag.PRESENCE,
    "presence_subscribe": Flag.PRESENCE_SUBSCRIBE,
    "annotation_publish": Flag.ANNOTATION_PUBLISH,
    "annotation_subscribe": Flag.ANNOTATION_SUBSCRIBE,
    "object_subscribe": Flag.OBJECT_SUBSCRIBE,
    "object_publish": Flag.OBJECT_PUBLISH,
}
PARAMS: list[tuple[str, Any]] = [
    ("delta", "vcdiff"),
    ("occupancy", "metrics"),
    ("occupancy", "metrics.presenceMembers"),
    ("remainPresentFor", 1000),
    ("appendMode", "full"),
    ("delta", ""),
    ("occupancy", True),
]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("secure"), arguments=authority().arguments) as running:
        yield running
    assert not running.complaints(), running.complaints()


@pytest.fixture(params=["plain JSON", "plain msgpack", "TLS JSON", "TLS msgpack"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[WsClient]:
    transport, _, format = request.param.lower().partition(" ")
    tls = authority().client if transport == "tls" else None
    address = (request.getfixturevalue("secure") if tls else server).address
    with WsClient(address, format=format, tls=tls, clientId="me") as made:
        yield made


def refused(attempt: Callable[[], object]) -> tuple[int, int, str]:
    with pytest.raises(RefusedError) as error:
        attempt()
    assert error.value.code is not None and error.value.status is not None
    return error.value.code, error.value.status, str(error.value)


def goes_on(client: WsClient, channel: str) -> None:
    """The connection does, and so does the channel, for whoever asks for what is there."""
    assert client.attach(channel)["flags"] == THERE
    client.publish(channel, {"data": "x"})
    assert client.deliveries(channel, 1)[0]["data"] == "x"
    assert until_pong(client) == []


# attaching


@pytest.mark.parametrize(("name", "value"), PARAMS)
@pytest.mark.parametrize("where", ["params", "name", "both"])
def test_a_param_of_what_is_not_there_is_the_channels_error(
    client: WsClient, channel: str, name: str, value: Any, where: str
) -> None:
    text = f"[?rewind=1&{name}={value}]{channel}" if where != "params" else channel
    given = {"rewind": "1", name: value} if where != "name" else None
    code, status, message = refused(lambda: client.attach(text, params=given))
    assert (code, status) == (40000, 400)
    assert f"params.{name}: " in message and absent.PARAMS[name] in message and SAYS in message
    goes_on(client, channel)


def test_a_param_that_is_null_or_that_nobody_knows_is_none(client: WsClient, channel: str) -> None:
    attached = client.attach(channel, params={"delta": None, "occupancy": None, "agent": "x/1", "Delta": "vcdiff"})
    assert attached.get("params", {}) == {} and "error" not in attached


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beside", ["", "publish,subscribe"])
@pytest.mark.parametrize("where", ["flags", "params", "name"])
def test_a_mode_of_what_is_not_there_is_refused_to_who_names_it(
    client: WsClient, channel: str, mode: str, beside: str, where: str
) -> None:
    text, given = channel, {}
    names = f"{beside},{mode}" if beside else mode
    if where == "flags":
        given = {"flags": MODES[mode] | (THERE if beside else 0)}
    elif where == "params":
        given = {"params": {"modes": names}}
    else:
        text = f"[?modes={names}]{channel}"
    code, status, message = refused(lambda: client.attach(text, **given))
    assert (code, status) == (40000, 400)
    assert f"modes.{mode}: " in message and absent.MODES[mode] in message and SAYS in message
    goes_on(client, channel)


def test_library_defaults_are_not_refused_and_not_granted(client: WsClient, channel: str) -> None:
    for fields in ({}, {"flags": 0}, {"flags": 1 << 5}):
        attached = client.attach(channel, **fields)
        assert attached["flags"] & ALL_MODES == THERE and "error" not in attached


@pytest.mark.parametrize("right", ["presence", "annotation-publish", "object-subscribe"])
def test_who_may_do_nothing_else_is_told_that_it_is_not_there(server: Server, channel: str, right: str) -> None:
    """And not that it may not."""
    with with_rights(server, right) as client:
        expected = (40000, 400) if right != "object-subscribe" else (40160, 401)  # which nobody has by default
        assert refused(lambda: client.attach(channel))[:2] == expected


def test_missing_right_shows_in_the_granted_modes(server: Server, channel: str) -> None:
    with with_rights(server, "subscribe") as client:
        assert client.attach(channel, flags=Flag.SUBSCRIBE | Flag.PRESENCE)["flags"] == Flag.SUBSCRIBE
        assert refused(lambda: client.attach(channel, flags=Flag.PRESENCE))[:2] == (40160, 401)


def test_new_credentials_grant_nothing_that_is_not_there(server: Server, channel: str) -> None:
    with WsClient(server.address, key=None, access_token=jwt(capability={"*": ["subscribe"]})) as client:
        client.attach(channel, flags=ALL_MODES & ~Flag.PRESENCE_SUBSCRIBE)
        auth(client, jwt(capability={"*": ["*"]}))
        assert client.expect(Action.ATTACHED)["flags"] & ALL_MODES == THERE


# what is sent


@pytest.mark.parametrize(
    ("action", "fields", "feature"),
    [
        (14, {"presence": [{"action": 2}]}, absent.PRESENCE),
        (14, {"presence": [{"action": 3, "clientId": "me"}]}, absent.PRESENCE),
        (14, {}, absent.PRESENCE),
        (19, {"state": [{"operation": {}}]}, absent.OBJECTS),
        (21, {"annotations": [{"action": 0, "type": "reaction:distinct.v1", "name": "x"}]}, absent.ANNOTATIONS),
        (21, {"annotations": [{"action": 1, "type": "reaction:distinct.v1"}]}, absent.ANNOTATIONS),
    ],
)
@pytest.mark.parametrize("attached", [True, False])
def test_it_is_nacked_by_name(
    client: WsClient, channel: str, action: int, fields: dict[str, Any], feature: str, attached: bool
) -> None:
    if attached:
        client.attach(channel)
    client.send({"action": action, "channel": channel, "msgSerial": 0, **fields})
    nack = client.receive()
    assert (nack["action"], nack["msgSerial"], nack["count"]) == (Action.NACK, 0, 1)
    assert (nack["error"]["code"], nack["error"]["statusCode"]) == (40000, 400)
    assert f"{feature} {SAYS}" in nack["error"]["message"]
    client.next_serial = 1
    goes_on(client, channel)


def test_presence_sync_is_refused_and_the_channel_continues(client: WsClient, channel: str) -> None:
    client.send({"action": 16, "channel": channel})  # not attached: there is nothing to tell
    client.attach(channel)
    client.publish(channel, {"data": "x"})
    (seen,) = client.deliveries(channel, 1)
    client.send({"action": 16, "channel": channel, "channelSerial": "s1:"})
    (told,) = until_pong(client)
    assert (told["action"], told["flags"]) == (Action.ATTACHED, THERE | RESUMED)
    assert told["channelSerial"] == seen["channelSerial"]
    assert told["error"]["code"] == 40000 and f"{absent.PRESENCE} {SAYS}" in told["error"]["message"]
    goes_on(client, channel)


@pytest.mark.parametrize("transport", ["plain", "TLS"])
def test_push_is_refused_on_every_way_in(
    server: Server, channel: str, request: pytest.FixtureRequest, transport: str
) -> None:
    tls = authority().client if transport == "TLS" else None
    asked = request.getfixturevalue("secure") if tls else server
    kept = {"push": None, "headers": {"push": 1}, "ref": {"type": "t", "timeserial": "s"}, "own": ["push"]}
    with ways(asked, tls) as each:
        for n, way in enumerate(each):
            name = f"{channel}-{n}"
            for push in ({"notification": {"title": "t"}}, {}, "x", False):
                assert refusal(way, name, {"data": "x", "extras": {"push": push}}) == 40032, way.name
            pushed = {"data": "x", "extras": {"push": {"data": {}}, "ephemeral": False}}
            with pytest.raises(RefusedError, match=rf"messages\[1\]\.extras\.push: push is {SAYS}"):
                way.publish(name, {"data": "x"}, pushed)
            way.publish(name, {"data": "y", "extras": kept})
            way.publish(name, {"data": "z"})
            stored = [message for message in history(asked.address, name, tls=tls) if message["data"] in "xyz"]
            assert [message["data"] for message in stored] == ["y", "z"], way.name
            assert stored[0]["extras"] == {key: value for key, value in kept.items() if key != "push"}


# paths

SERIAL = "001700000000000-00000%40none%3A000"
PATHS = [
    ("GET", "{c}/presence", absent.PRESENCE),
    ("GET", "{c}/presence?limit=0", absent.PRESENCE),
    ("GET", "{c}/presence/history", absent.PRESENCE),
    ("GET", "/presence?channels=a,b", absent.PRESENCE),
    ("GET", f"{{c}}/messages/{SERIAL}", absent.MUTABLE),
    ("PATCH", f"{{c}}/messages/{SERIAL}", absent.MUTABLE),
    ("GET", f"{{c}}/messages/{SERIAL}/versions", absent.MUTABLE),
    ("GET", f"{{c}}/messages/{SERIAL}/annotations", absent.ANNOTATIONS),
    ("POST", f"{{c}}/messages/{SERIAL}/annotations", absent.ANNOTATIONS),
    ("GET", f"{{c}}/messages/{SERIAL}/client-summary", absent.ANNOTATIONS),
    ("GET", "{c}/object", absent.OBJECTS),
    ("POST", "{c}/object", absent.OBJECTS),
    ("GET", "{c}/objects/root", absent.OBJECTS),
    ("POST", "/push/publish", absent.PUSH),
    ("PUT", "/push/deviceRegistrations/d", absent.PUSH),
    ("DELETE", "/push/channelSubscriptions?channel=c", absent.PUSH),
    ("GET", "/push/publicVapidKey", absent.PUSH),
    ("GET", "/comet/connect", absent.COMET),
    ("GET", "/sse", absent.EVENTS),
    ("GET", "/event-stream", absent.EVENTS),
]


@FORMATS
@pytest.mark.parametrize("transport", ["plain", "TLS"])
def test_a_path_of_what_is_not_there_says_so(
    server: Server, channel: str, request: pytest.FixtureRequest, packed: bool, transport: str
) -> None:
    tls = authority().client if transport == "TLS" else None
    asked = request.getfixturevalue("secure") if tls else server
    with RestClient(asked.address, packed=packed, tls=tls) as rest:
        for method, path, feature in PATHS:
            filled = path.replace("{c}", channel_path(channel).rpartition("/")[0])
            answer = rest.ask(method, filled, {} if method not in ("GET", "DELETE") else None)
            assert answer.refusal == (404, 40400), (method, path)
            assert f"{feature} {SAYS}" in answer.value["error"]["message"], (method, path)


@pytest.mark.parametrize(
    "path", ["/channels/presence/members", "/channels/c/messages/", "/channels/c/more", "/nothing", "/pushed"]
)
def test_a_path_of_nothing_at_all_is_no_route(server: Server, path: str) -> None:
    with RestClient(server.address) as rest:
        answer = rest.ask("GET", path)
        assert answer.refusal == (404, 40400) and "unknown route" in answer.value["error"]["message"]


def test_nobody_is_counted_for_what_is_not_there(server: Server, channel: str) -> None:
    with WsClient(server.address) as client, RestClient(server.address) as rest:
        client.attach(channel)
        metrics = rest.ask("GET", f"/channels/{channel}").value["status"]["occupancy"]["metrics"]
    assert {name: count for name, count in metrics.items() if count} == {
        "connections": 1,
        "publishers": 1,
        "subscribers": 1,
    }


def test_every_mode_and_param_of_it_is_tried_here() -> None:
    assert set(absent.MODES) == set(MODES) and {name for name, _ in PARAMS} == set(absent.PARAMS)
    assert THERE | sum(MODES.values()) == ALL_MODES
