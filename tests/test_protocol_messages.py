"""What the realtime protocol promises about messages: the answer to each publish, and what is delivered."""

import pytest

from tests.harness import history, publish
from tests.test_protocol import until_pong
from tests.test_protocol_channels import SUBSCRIBE, texts, with_rights
from tests.wsclient import Action, RefusedError, WsClient


def text_of(count):
    return [{"data": "x"}] * count


@pytest.mark.parametrize(
    ("messages", "params", "answer"),
    [
        ([{"data": "x", "clientId": "other"}], {}, (40012, 400)),
        ([{"data": "x", "clientId": "*"}], {}, (40012, 400)),
        ([{"data": "x", "clientId": 5}], {}, (40012, 400)),
        ([{"id": "a:0"}, {"id": "b:1"}], {}, (40031, 400)),
        ([{"id": "a:1"}, {"id": "a:0"}], {}, (40031, 400)),
        ([{"id": "a:0"}, {"data": "x"}], {}, (40031, 400)),
        ([{"data": "x", "extras": "x"}], {}, (40032, 400)),
        ([{"data": "x", "extras": []}], {}, (40032, 400)),
        ([{"data": 5}], {}, (40013, 400)),
        ([{"data": True}], {}, (40013, 400)),
        ([{"data": {"a": 1}, "encoding": "json"}], {}, (40013, 400)),
        ([{"data": "x", "encoding": 5}], {}, (40013, 400)),
        ([{"data": "x" * 65537}], {}, (40009, 400)),
        (text_of(1001), {}, (40034, 400)),
        ([{"data": "x"}], {"_forceNack": "true"}, (40099, 400)),
        ([{"data": "x"}], {"_forceNack": True}, (40099, 400)),
        ([{"data": "x", "action": 1, "serial": "s"}], {}, (40000, 400)),
        ([5], {}, (40000, 400)),
        ({"data": "x"}, {}, (40000, 400)),
        (None, {}, (40000, 400)),
    ],
)
@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_faulty_publish_is_refused_by_code_and_not_stored(server, channel, messages, params, answer, format):
    with WsClient(server.address, clientId="me", format=format) as client:
        client.attach(channel)
        pm = {"action": Action.MESSAGE, "channel": channel, "msgSerial": 0, "messages": messages, "params": params}
        client.send(pm)
        nack = client.receive()
        assert (nack["action"], nack["msgSerial"], nack["count"]) == (Action.NACK, 0, 1)
        assert (nack["error"]["code"], nack["error"]["statusCode"]) == answer
        client.send_messages(channel, [{"data": "good"}], msg_serial=1)
        assert texts(client, channel, 1) == ["good"]
        assert [message["action"] for message in until_pong(client)] == [Action.ACK]


@pytest.mark.parametrize("messages", [[{"data": "x"}], [{"data": 5}], text_of(1001), None])
def test_who_may_not_publish_is_told_that_first(server, channel, messages):
    pm = {"action": Action.MESSAGE, "channel": channel, "msgSerial": 0, "messages": messages}
    with with_rights(server, "subscribe") as client:
        client.attach(channel)
        client.send(pm)
        assert client.expect(Action.NACK)["error"]["code"] == 40160
    with WsClient(server.address) as client:
        client.attach(channel, flags=SUBSCRIBE)
        client.send(pm)
        assert client.expect(Action.NACK)["error"]["code"] == 40165


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_every_publish_has_one_answer_in_order(server, channel, format):
    with WsClient(server.address, format=format) as client:
        names = {serial: ":bad" if serial % 5 == 3 else f"{channel}-{serial % 3}" for serial in range(40)}
        for serial, name in names.items():
            client.send_messages(name, [{"data": "x"}], msg_serial=serial)
        answers = []
        while len(answers) < len(names):
            message = client.expect(Action.ACK, Action.NACK)
            good = message["action"] == Action.ACK
            assert not good or [len(one["serials"]) for one in message["res"]] == [1] * message["count"]
            answers += [(message["msgSerial"] + at, good) for at in range(message["count"])]
        assert answers == [(serial, name != ":bad") for serial, name in names.items()]
        assert until_pong(client) == []


def test_an_ack_spans_only_serials_that_follow_each_other(server, channel):
    serials = [0, 1, 3, 3, 9, 4, 5]
    with WsClient(server.address) as client:
        pm = {"action": 15, "channel": channel, "messages": [{"data": "x"}]}
        client.send(*({**pm, "msgSerial": serial} for serial in serials))  # at once, so that they are stored at once
        answered = []
        while len(answered) < len(serials):
            ack = client.expect(1)
            assert len(ack["res"]) == ack["count"]
            answered += range(ack["msgSerial"], ack["msgSerial"] + ack["count"])
        assert answered == serials


def test_repeated_msgserial_is_answered_again_delivered_once(server, channel):
    with WsClient(server.address) as client:
        client.attach(channel)
        first = client.publish(channel, {"data": "a"}, {"data": "b"})
        client.send_messages(channel, [{"data": "a"}, {"data": "b"}], msg_serial=0)
        assert client.expect(Action.ACK)["res"] == [{"serials": first}]
        client.publish(channel, {"data": "c"})
        assert texts(client, channel, 3) == ["a", "b", "c"]


# delivery


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_a_delivery_has_everything_and_no_nulls(server, channel, format):
    sent = {"name": None, "data": "x", "encoding": None, "clientId": None, "extras": None, "id": None}
    extra = {"size": 5, "connectionId": "forged", "timestamp": 1, "annotations": {}, "action": 0}
    with WsClient(server.address, format=format) as client:
        client.attach(channel)
        serials = client.publish(channel, {**sent, **extra}, {"name": "", "data": ""})
        pm = client.expect(Action.MESSAGE)
        base = f"{client.connection_id}:0"
        assert {key: pm[key] for key in ("channel", "id", "connectionId")} == {
            "channel": channel,
            "id": base,
            "connectionId": client.connection_id,
        }
        common = [{"action": 0, "serial": serial} for serial in serials]  # version follows from them when it is absent
        assert pm["messages"] == [
            {"id": f"{base}:0", "data": "x", **common[0]},
            {"id": f"{base}:1", "name": "", "data": "", **common[1]},
        ]
        assert all(serial.startswith(pm["channelSerial"]) for serial in serials)
        assert pm["timestamp"] > 1


def test_a_message_without_any_content_is_delivered_without_any(server, channel):
    with WsClient(server.address) as client:
        client.attach(channel)
        client.publish(channel, {})
        assert set(client.deliveries(channel, 1)[0]) & {"name", "data", "encoding", "clientId", "extras"} == set()


@pytest.mark.parametrize(
    ("connection", "message", "delivered"),
    [({"clientId": "x"}, None, "x"), ({"clientId": "x"}, "x", "x"), ({}, None, None), ({}, "any", "any")],
)
def test_the_clientid_is_filled_in_from_the_connection(server, channel, connection, message, delivered):
    with WsClient(server.address, **connection) as client:
        client.attach(channel)
        client.publish(channel, {"data": "x", **({"clientId": message} if message else {})})
        assert client.deliveries(channel, 1)[0].get("clientId") == delivered


def test_who_is_anonymous_asserts_no_clientid(server, channel):
    with with_rights(server, "*") as client:
        with pytest.raises(RefusedError, match="40012"):
            client.publish(channel, {"data": "x", "clientId": "x"})
        assert client.publish(channel, {"data": "x"})


PAYLOADS = [  # in the publisher's format, as JSON, as msgpack
    ("json", {"data": "abc"}, {"data": "abc"}, {"data": "abc"}),
    ("json", {"data": "AQID", "encoding": "base64"}, {"data": "AQID", "encoding": "base64"}, {"data": b"\1\2\3"}),
    ("msgpack", {"data": b"\1\2\3"}, {"data": "AQID", "encoding": "base64"}, {"data": b"\1\2\3"}),
    (
        "msgpack",
        {"data": b"\1", "encoding": "utf-8/cipher+aes-256-cbc"},
        {"data": "AQ==", "encoding": "utf-8/cipher+aes-256-cbc/base64"},
        {"data": b"\1", "encoding": "utf-8/cipher+aes-256-cbc"},
    ),
    ("json", {"data": {"a": 1}}, {"data": '{"a":1}', "encoding": "json"}, {"data": '{"a":1}', "encoding": "json"}),
    ("json", {"data": "!", "encoding": "base64"}, *[{"data": "!", "encoding": "base64"}] * 2),
    ("json", {"data": "x", "encoding": "json/unknown"}, *[{"data": "x", "encoding": "json/unknown"}] * 2),
    ("json", {"extras": {"headers": {"a": 1}, "delta": {}}}, *[{"extras": {"headers": {"a": 1}}}] * 2),
]


@pytest.mark.parametrize(("format", "sent", "as_json", "as_msgpack"), PAYLOADS)
def test_a_payload_arrives_in_every_format_as_the_same_value(server, channel, format, sent, as_json, as_msgpack):
    with WsClient(server.address) as text, WsClient(server.address, format="msgpack") as packed:
        for client in (text, packed):
            client.attach(channel)
        {"json": text, "msgpack": packed}[format].publish(channel, sent)
        for client, expected in ((text, as_json), (packed, as_msgpack)):
            got = client.deliveries(channel, 1)[0]
            assert {key: got[key] for key in ("data", "encoding", "extras") if key in got} == expected


@pytest.mark.parametrize("where", ["connection", "channel"])
def test_without_echo_only_the_own_messages_are_withheld(server, channel, where):
    query, params = ({"echo": "false"}, {}) if where == "connection" else ({}, {"echo": "false"})
    with WsClient(server.address, **query) as client, WsClient(server.address) as other:
        client.attach(channel, params=params)
        other.attach(channel)
        for text in "ab":
            client.publish(channel, {"data": text})
            other.publish(channel, {"data": text.upper()})
        assert texts(other, channel, 4) == ["a", "A", "b", "B"]
        assert texts(client, channel, 2) == ["A", "B"]


def test_an_ephemeral_message_is_live_only(server, channel):
    with WsClient(server.address) as live, WsClient(server.address) as client:
        cursor = live.attach(channel)["channelSerial"]
        client.publish(channel, {"data": "kept"})
        client.publish(channel, {"data": "gone", "extras": {"ephemeral": True}})
        assert texts(live, channel, 2) == ["kept", "gone"]
        assert [message["data"] for message in history(server.address, channel)] == ["kept"]
        client.attach(channel, params={"rewind": "1"})
        with WsClient(server.address) as resumed:
            resumed.attach(channel, channelSerial=cursor)
            client.publish(channel, {"data": "next"})
            assert texts(client, channel, 2) == texts(resumed, channel, 2) == ["kept", "next"]


def test_rest_publish_has_no_connection_and_keeps_its_ids(server, channel):
    with WsClient(server.address) as client:
        client.attach(channel)
        answer = publish(server.address, channel, [{"id": "a+/=:0", "data": "x"}, {"id": "a+/=:1", "data": "y"}])
        pm = client.expect(Action.MESSAGE)
        assert "connectionId" not in pm
        assert [message["id"] for message in WsClient.members(pm)] == ["a+/=:0", "a+/=:1"]
        assert answer["messageId"] == pm["id"] == "a+/="
        client.publish(channel, {"id": "a+/=:0", "data": "x"})  # acknowledged, and not delivered again
        assert until_pong(client) == []
