"""What the realtime protocol promises about connections: greeting, liveness, credentials, resume, endings, garbage."""

import json

import pytest

from tests.harness import request
from tests.harness import token as make_token
from tests.wsclient import Action, GoneError, RefusedError, WsClient, unique

CAPABLE = {"*": ["*"]}


def until_pong(client):
    """Everything that comes before the answer to a ping."""
    mark, got = unique("ping"), []
    client.send({"action": Action.HEARTBEAT, "id": mark})
    while (message := client.receive()) != {"action": 0, "id": mark}:
        assert message["action"] != Action.HEARTBEAT or "id" not in message, "the answer to another's ping"
        got.append(message)
    return got


def ended_with(client, action):
    """Its last words, which must be followed by the end and not have a channel."""
    last = client.expect(action)
    assert "channel" not in last
    with pytest.raises(GoneError):
        while True:
            client.receive()
    return last


def refusal(address, **options):
    with WsClient(address, greet=False, **options) as client:
        error = ended_with(client, Action.ERROR)["error"]
        assert isinstance(error["message"], str)
        return error["code"], error["statusCode"]


def short_token(address, ttl, **fields):
    body = {"keyName": "app1.key1", "ttl": ttl, "capability": json.dumps(CAPABLE), **fields}
    status, details, _ = request(address, "POST", "/keys/app1.key1/requestToken", body)
    assert status in (200, 201), details
    return details["token"]


# greeting


@pytest.mark.parametrize("v", ["1.0", "1.1", "1.2", "2", "3", "4", "5", "6", "7", "99"])
def test_any_version_is_greeted_with_all_that_libraries_need(server, v):
    with WsClient(server.address, v=v) as client:
        details = client.connected["connectionDetails"]
        assert details == {
            "clientId": "*",
            "connectionKey": client.connected["connectionKey"],
            "maxMessageSize": 65536,
            "maxFrameSize": 524288,
            "connectionStateTtl": 120000,
            "maxIdleInterval": 15000,
            "serverId": details["serverId"],
        }
        assert set(client.connected) == {"action", "connectionId", "connectionKey", "connectionDetails"}


@pytest.mark.parametrize("v", ["abc", "-1", "5.x", "6.", ".6", "1e1"])
def test_what_is_no_version_is_refused(server, v):
    assert refusal(server.address, v=v) == (40017, 400)


@pytest.mark.parametrize("params", [{"rnd": "1", "lib": "x", "timestamp": "1", "whatever": ""}, {"clientId": "*"}])
def test_unknown_params_are_ignored_and_wildcard_claims_nobody(server, params):
    with WsClient(server.address, **params) as client:
        assert client.connected["connectionDetails"]["clientId"] == "*"


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"key": None}, (40101, 401)),
        ({"key": "app1.key1:wrong"}, (40101, 401)),
        ({"key": "app1.other:secret"}, (40101, 401)),
        ({"key": "nowhere.key1:secret"}, (40101, 401)),
        ({"key": "rubbish"}, (40101, 401)),
        ({"key": None, "access_token": "rubbish"}, (40101, 401)),
        ({"accessToken": "rubbish"}, (40101, 401)),  # a token goes before the key
        ({"format": "xml"}, (40000, 400)),
    ],
)
def test_who_may_not_enter_is_told_so_after_the_upgrade(server, options, answer):
    assert refusal(server.address, **options) == answer


def test_a_refusal_is_in_the_format_that_was_asked_for(server):
    assert refusal(server.address, format="msgpack", key="rubbish") == (40101, 401)


@pytest.mark.parametrize(
    ("of_token", "asserted", "told"),
    [
        (None, None, None),
        (None, "x", 40102),
        ("x", None, "x"),
        ("x", "x", "x"),
        ("x", "y", 40102),
        ("*", None, "*"),
        ("*", "*", "*"),
        ("*", "y", "y"),
    ],
)
@pytest.mark.parametrize("spelling", ["access_token", "accessToken"])
def test_who_the_client_is_follows_from_token_and_claim(server, of_token, asserted, told, spelling):
    params = {spelling: make_token(server.address, CAPABLE, client_id=of_token)}
    if asserted is not None:
        params["clientId"] = asserted
    if isinstance(told, int):
        assert refusal(server.address, key=None, **params) == (told, 401)
        return
    with WsClient(server.address, key=None, **params) as client:
        assert client.connected["connectionDetails"].get("clientId") == told
        assert told is not None or "clientId" not in client.connected["connectionDetails"]


# liveness


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_ping_is_answered_with_its_id(server, format):
    with WsClient(server.address, format=format) as client:
        client.send({"action": Action.HEARTBEAT, "id": "p1"})
        client.send({"action": Action.HEARTBEAT})
        client.send({"action": Action.HEARTBEAT, "id": None})
        assert [client.receive() for _ in range(3)] == [{"action": 0, "id": "p1"}, {"action": 0}, {"action": 0}]


def test_idle_client_hears_from_the_server_in_time(make_server):
    own = make_server(config="[limits]\nmax_idle_interval_ms = 4000\n")
    with WsClient(own.address) as client:
        assert client.connected["connectionDetails"]["maxIdleInterval"] == 4000
        assert client.receive(4) == {"action": 0}


def test_incoming_frames_are_read_by_their_own_format(server):
    with WsClient(server.address) as client:
        client.send_raw(b"\x82\xa6action\x00\xa2id\xa2p1")
        assert client.receive() == {"action": 0, "id": "p1"}


@pytest.mark.parametrize("action", [3, 18, 20, 22, 99, 254, 255, 256, 1000, 100_000])
def test_unknown_actions_and_fields_are_ignored(server, action):
    with WsClient(server.address) as client:
        client.send({"action": action, "channel": "x", "msgSerial": 0, "new": {"a": [None]}})
        client.send({"action": 0, "id": "p1", "new": [1], "auth": None})
        assert client.receive() == {"action": 0, "id": "p1"}


# garbage

DEEP = "[" * 1000 + "]" * 1000
GARBAGE = {
    "no JSON": "{",
    "nothing": "",
    "array": "[]",
    "array of one": '[{"action":0}]',
    "null": "null",
    "string": '"x"',
    "number": "15",
    "without action": "{}",
    "action of no number": '{"action":"0"}',
    "action of no whole number": '{"action":1.5}',
    "action true": '{"action":true}',
    "negative action": '{"action":-1}',
    "endless brackets": "[" * 400_000,
    "ATTACH without channel": '{"action":10}',
    "ATTACH to a number": '{"action":10,"channel":5}',
    "DETACH from null": '{"action":12,"channel":null}',
    "MESSAGE without msgSerial": '{"action":15,"channel":"x","messages":[]}',
    "MESSAGE with a negative msgSerial": '{"action":15,"channel":"x","msgSerial":-1,"messages":[]}',
    "AUTH without a token": '{"action":17}',
    "AUTH with a list": '{"action":17,"auth":[]}',
    "no msgpack": b"\xc1",
    "no bytes": b"",
    "msgpack array": b"\x90",
    "msgpack cut off": b"\x81\xa6action",
    "msgpack that announces a lot": b"\xdf\xff\xff\xff\xff",
    "msgpack nested deeply": b"\x81\xa6action" + b"\x91" * 100_000 + b"\x00",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_ends_its_connection_with_80013_and_no_other(server, name):
    with WsClient(server.address) as bystander, WsClient(server.address) as client:
        client.send_raw(GARBAGE[name])
        assert ended_with(client, Action.ERROR)["error"]["code"] == 80013
        assert until_pong(bystander) == []


def test_a_frame_over_the_limit_ends_its_connection_with_40009(server):
    with WsClient(server.address) as bystander, WsClient(server.address) as client:
        client.send_raw(json.dumps({"action": 0, "id": "x" * 524288}))
        assert ended_with(client, Action.ERROR)["error"]["code"] == 40009
        assert until_pong(bystander) == []


@pytest.mark.parametrize("value", [DEEP, '{"a":' * 900 + "1" + "}" * 900, "[]", "{}"])
def test_a_param_of_a_wrong_type_is_its_channels_error_only(server, channel, value):
    with WsClient(server.address) as client:
        client.send_raw(f'{{"action":10,"channel":"{channel}","params":{{"rewind":{value}}}}}')
        answer = client.expect(Action.ERROR)
        assert (answer["channel"], answer["error"]["statusCode"]) == (channel, 400)
        assert until_pong(client) == []


# endings


def test_close_is_confirmed_last_and_ends_the_connection(server, channel):
    with WsClient(server.address) as reader, WsClient(server.address) as client:
        reader.attach(channel)
        client.send_messages(channel, [{"data": "last"}])
        client.send({"action": Action.CLOSE})
        assert ended_with(client, Action.CLOSED) == {"action": Action.CLOSED}
        assert reader.deliveries(channel, 1)[0]["data"] == "last"
        with WsClient(server.address, resume=client.connection_key) as late:
            assert late.connected["error"]["code"] == 80005
            assert late.connection_id != client.connection_id


@pytest.mark.parametrize("how", ["disconnect", "drop"])
def test_disconnect_or_loss_keeps_the_connection_for_a_resume(server, how):
    with WsClient(server.address) as client:
        if how == "disconnect":
            client.send({"action": Action.DISCONNECT})
            assert ended_with(client, Action.DISCONNECTED)["error"]["code"] == 80003
        client.drop()
        with WsClient(server.address, resume=client.connection_key) as again:
            assert again.connection_id == client.connection_id


# resume


@pytest.mark.parametrize("word", ["resume", "recover"])
def test_resume_keeps_the_id_and_changes_the_key(server, channel, word):
    with WsClient(server.address) as older, WsClient(server.address) as other:
        older.attach(channel)
        stored = older.publish(channel, {"data": "a"})
        with WsClient(server.address, **{word: older.connection_key}) as newer:
            assert newer.connection_id == older.connection_id
            assert newer.connection_key != older.connection_key
            assert "error" not in newer.connected
            with pytest.raises(GoneError):
                while True:
                    assert older.receive()["action"] in (Action.MESSAGE, Action.DISCONNECTED)
            other.publish(channel, {"data": "b"})
            assert until_pong(newer) == []  # attachments are the client's to renew
            newer.send_messages(channel, [{"data": "a"}], msg_serial=0)
            assert newer.expect(Action.ACK)["res"] == [{"serials": stored}]
            with WsClient(server.address, resume=newer.connection_key) as third:
                assert third.connection_id == older.connection_id


@pytest.mark.parametrize(
    "handle", ["_____!ablyjs_test_fake-key____", "ably-python-fake-key", "ablygo_test_fake-key____", "x", "a" * 60]
)
def test_unknown_key_gets_a_fresh_connection_and_80018(server, handle):
    with WsClient(server.address, resume=handle) as client:
        error = client.connected["error"]
        assert (error["code"], error["statusCode"]) == (80018, 400)
        assert client.publish("x", {"data": "works"})


def test_a_connection_is_not_resumed_as_somebody_else(server):
    with WsClient(server.address, clientId="x") as client, WsClient(server.address, clientId="y") as thief:
        with WsClient(server.address, clientId="y", resume=client.connection_key) as other:
            assert other.connected["error"]["code"] == 40102
            assert other.connection_id not in (client.connection_id, thief.connection_id)
        assert until_pong(client) == []
        renewed = make_token(server.address, CAPABLE, client_id="x")
        with WsClient(server.address, key=None, access_token=renewed, resume=client.connection_key) as again:
            assert again.connection_id == client.connection_id


# credentials on a connection


def auth(client, token):
    client.send({"action": Action.AUTH, "auth": {"accessToken": token}})


def with_token(address, capability, client_id=None):
    return WsClient(address, key=None, access_token=make_token(address, capability, client_id=client_id))


def test_more_rights_take_effect_at_once_and_id_and_key_stay(server, channel):
    with with_token(server.address, {"*": ["subscribe"]}) as client:
        assert client.attach(channel)["flags"] == 262144
        with pytest.raises(RefusedError, match="40160"):
            client.publish(channel, {"data": "a"})
        auth(client, make_token(server.address, CAPABLE))
        assert client.expect(Action.CONNECTED) == client.connected
        client.publish(channel, {"data": "b"})
        assert [message["data"] for message in client.deliveries(channel, 1)] == ["b"]


def test_less_rights_take_effect_at_once(server, channel):
    with WsClient(server.address) as other, with_token(server.address, CAPABLE) as client:
        client.attach(channel)
        auth(client, make_token(server.address, {"*": ["publish"]}))
        client.expect(Action.CONNECTED)
        other.publish(channel, {"data": "unseen for now"})
        client.publish(channel, {"data": "and so is this"})
        assert [message["action"] for message in until_pong(client)] == [Action.ATTACHED]
        auth(client, make_token(server.address, {"*": ["subscribe"]}))
        client.expect(Action.CONNECTED)
        with pytest.raises(RefusedError, match="40160"):
            client.publish(channel, {"data": "refused"})
        other.publish(channel, {"data": "seen"})
        assert [message["data"] for message in client.deliveries(channel, 3)] == [
            "unseen for now",
            "and so is this",
            "seen",
        ]
        auth(client, make_token(server.address, {"elsewhere": ["*"]}))
        answer = client.expect(Action.ERROR)
        assert (answer["channel"], answer["error"]["code"]) == (channel, 40160)
        client.expect(Action.CONNECTED)
        other.publish(channel, {"data": "unseen"})
        assert [message["action"] for message in until_pong(client)] == [Action.ATTACHED]  # of the rights before


def test_rights_gained_during_an_attach_deliver_each_once(server, channel):
    with WsClient(server.address) as other, with_token(server.address, {"*": ["publish"]}) as client:
        renewed = make_token(server.address, CAPABLE)
        client.send({"action": Action.ATTACH, "channel": channel})
        auth(client, renewed)
        client.expect(Action.ATTACHED)
        client.expect(Action.CONNECTED)
        for text in "ab":
            other.publish(channel, {"data": text})
        assert [message["data"] for message in client.deliveries(channel, 2)] == ["a", "b"]


def test_rights_lost_during_an_attach_leave_the_channel_usable(server, channel):
    with with_token(server.address, CAPABLE) as client:
        renewed = [make_token(server.address, capability) for capability in ({"elsewhere": ["*"]}, CAPABLE)]
        client.send({"action": Action.ATTACH, "channel": channel})
        auth(client, renewed[0])
        client.expect(Action.CONNECTED)
        auth(client, renewed[1])
        client.expect(Action.CONNECTED)
        client.expect(Action.ERROR, channel=channel)
        client.send({"action": Action.ATTACH, "channel": channel})
        client.expect(Action.ATTACHED, channel=channel, seconds=5)


@pytest.mark.parametrize(("client_id", "code"), [("y", 40102), (None, 40102), ("rubbish", 40101)])
def test_token_of_another_client_ends_the_connection(server, client_id, code):
    with with_token(server.address, CAPABLE, "x") as client:
        auth(client, client_id if code == 40101 else make_token(server.address, CAPABLE, client_id=client_id))
        assert ended_with(client, Action.ERROR)["error"]["code"] == code


def test_token_end_is_announced_30_s_before_and_can_be_renewed(server):
    tokens = [short_token(server.address, ttl) for ttl in (1000, 31_000, 1000)]
    with (
        WsClient(server.address, key=None, access_token=tokens[0]) as renewed,
        WsClient(server.address, key=None, access_token=tokens[1]) as hinted,
        WsClient(server.address, key=None, access_token=tokens[2]) as brief,  # after its end renewed's would be past
    ):
        auth(renewed, make_token(server.address, CAPABLE))
        renewed.expect(Action.CONNECTED)
        assert hinted.receive(5) == {"action": Action.AUTH}
        error = ended_with(brief, Action.DISCONNECTED)["error"]
        assert (error["code"], error["statusCode"]) == (40142, 401)
        assert until_pong(renewed) == []
        assert refusal(server.address, key=None, access_token=tokens[0]) == (40142, 401)
        fresh = make_token(server.address, CAPABLE)
        with WsClient(server.address, key=None, access_token=fresh, resume=brief.connection_key) as again:
            assert again.connection_id == brief.connection_id
