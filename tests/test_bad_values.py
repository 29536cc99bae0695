"""A value that only one format can say, or that nobody can keep, is the business of its message alone: the connection
goes on, and what is stored depends neither on the format nor on the way in. Only what is no frame ends a connection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from tests.harness import Server, channel_path
from tests.restclient import JSON, MSGPACK, RestClient
from tests.test_protocol import until_pong
from tests.wsclient import Action, RefusedError, WsClient

UNDEFINED = msgpack.ExtType(0, b"\0")  # as ably-js writes it
HIGH, LOW = "\ud83d", "\ude00"
NAN, INFINITE = float("nan"), float("inf")
FORMATS = ["json", "msgpack"]
MANY_DIGITS = "a number of many digits"  # which msgpack does not have


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: Any) -> Iterator[tuple[Server, Any]]:
    with Server(tmp_path_factory.mktemp("secure"), arguments=authority[0]) as running:
        yield running, authority[1]
    assert not running.complaints(), running.complaints()


def packed(value: Any, kind: str) -> str | bytes:
    return json.dumps(value) if kind == "json" else msgpack.packb(value)


def frame(channel: str, msg_serial: int, messages: list[Any], **more: Any) -> dict[str, Any]:
    return {"action": 15, "channel": channel, "msgSerial": msg_serial, "messages": messages, **more}


def deep(depth: int, inside: Any = 1) -> Any:
    for _ in range(depth):
        inside = [inside]
    return inside


# The same call in an SDK: what it sends in JSON, what in msgpack, and what is stored (id apart).
SAME: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "half an emoji in data": ({"data": f"ok {HIGH}"}, {"data": "ok \ufffd"}, {"data": "ok \ufffd"}),
    "the other half": ({"data": f"{LOW} ok"}, {"data": "\ufffd ok"}, {"data": "\ufffd ok"}),
    "two halves the wrong way round": ({"data": LOW + HIGH}, {"data": "\ufffd\ufffd"}, {"data": "\ufffd\ufffd"}),
    "a half before a whole": (
        {"data": f"{HIGH}\U0001f600"},
        {"data": "\ufffd\U0001f600"},
        {"data": "\ufffd\U0001f600"},
    ),
    "half an emoji in the name": (
        {"name": HIGH, "data": "x"},
        {"name": "\ufffd", "data": "x"},
        {"name": "\ufffd", "data": "x"},
    ),
    "half an emoji in the clientId": (
        {"clientId": f"c{HIGH}", "data": "x"},
        {"clientId": "c\ufffd", "data": "x"},
        {"clientId": "c\ufffd", "data": "x"},
    ),
    "half an emoji in extras": (
        {"data": "x", "extras": {"headers": {"a": HIGH}}},
        {"data": "x", "extras": {"headers": {"a": "\ufffd"}}},
        {"data": "x", "extras": {"headers": {"a": "\ufffd"}}},
    ),
    "half an emoji in a key": (
        {"data": "x", "extras": {HIGH: 1}},
        {"data": "x", "extras": {"\ufffd": 1}},
        {"data": "x", "extras": {"\ufffd": 1}},
    ),
    "half an emoji in an object": (
        {"data": {"a": HIGH}},
        {"data": {"a": "\ufffd"}},
        {"data": '{"a":"\ufffd"}', "encoding": "json"},
    ),
    "half an emoji in what is dropped": ({"data": "x", "new": HIGH}, {"data": "x", "new": "\ufffd"}, {"data": "x"}),
    "undefined in an array": (
        {"data": "x", "extras": {"headers": {"v": [1, None, 2]}}},
        {"data": "x", "extras": {"headers": {"v": [1, UNDEFINED, 2]}}},
        {"data": "x", "extras": {"headers": {"v": [1, None, 2]}}},
    ),
    "undefined in a map": (
        {"data": "x", "extras": {"a": 1, "b": None}},
        {"data": "x", "extras": {"a": 1, "b": UNDEFINED}},
        {"data": "x", "extras": {"a": 1}},
    ),
    "undefined in an object": (
        {"data": [1, None]},
        {"data": [1, UNDEFINED]},
        {"data": "[1,null]", "encoding": "json"},
    ),
    "undefined as data": ({"name": "n", "data": None}, {"name": "n", "data": UNDEFINED}, {"name": "n"}),
    "undefined as name": ({"name": None, "data": "x"}, {"name": UNDEFINED, "data": "x"}, {"data": "x"}),
    "undefined as id": ({"id": None, "data": "x"}, {"id": UNDEFINED, "data": "x"}, {"data": "x"}),
    "undefined as clientId": ({"clientId": None, "data": "x"}, {"clientId": UNDEFINED, "data": "x"}, {"data": "x"}),
    "undefined as encoding": ({"encoding": None, "data": "x"}, {"encoding": UNDEFINED, "data": "x"}, {"data": "x"}),
    "undefined as extras": ({"extras": None, "data": "x"}, {"extras": UNDEFINED, "data": "x"}, {"data": "x"}),
    "undefined as timestamp": ({"timestamp": None, "data": "x"}, {"timestamp": UNDEFINED, "data": "x"}, {"data": "x"}),
    "a timestamp that is dropped": (
        {"data": "x", "new": None},
        {"data": "x", "new": msgpack.Timestamp(1)},
        {"data": "x"},
    ),
    "ext of all sizes": (
        {"data": "x", "extras": {"a": [None] * 8}},
        {"data": "x", "extras": {"a": [msgpack.ExtType(5, b"x" * size) for size in (0, 1, 2, 4, 8, 16, 300, 70_000)]}},
        {"data": "x", "extras": {"a": [None] * 8}},
    ),
    "NaN and infinity": (
        {"data": "x", "extras": {"a": [NAN, INFINITE, -INFINITE], "b": NAN}},
        {"data": "x", "extras": {"a": [NAN, INFINITE, -INFINITE], "b": NAN}},
        {"data": "x", "extras": {"a": [None, None, None]}},
    ),
    "NaN in an object": ({"data": {"a": NAN}}, {"data": {"a": NAN}}, {"data": '{"a":null}', "encoding": "json"}),
    "keys that are numbers": (
        {"data": "x", "extras": {7: "a", None: "b", True: "c", 1.5: "d", -7: "e"}},
        {"data": "x", "extras": {7: "a", None: "b", True: "c", 1.5: "d", -7: "e"}},
        {"data": "x", "extras": {"7": "a", "null": "b", "true": "c", "1.5": "d", "-7": "e"}},
    ),
    "floats without a fraction": (
        {"action": 0.0, "data": "x", "extras": {"a": 1.0}},
        {"action": 0.0, "data": "x", "extras": {"a": 1.0}},
        {"data": "x", "extras": {"a": 1.0}},
    ),
    "a deep member that is dropped": ({"data": "x", "new": deep(400)}, {"data": "x", "new": deep(400)}, {"data": "x"}),
    "deep data": ({"data": deep(200)}, {"data": deep(200)}, {"data": "[" * 200 + "1" + "]" * 200, "encoding": "json"}),
}

# The message, the code that its publisher gets, and the field that is named; in both formats unless one is named.
REFUSED: dict[str, tuple[Any, int, str]] = {
    "extras too deep": ({"extras": {"a": deep(70)}}, 40032, "messages[0].extras"),
    "extras much too deep": ({"extras": {"a": deep(500)}}, 40032, "messages[0].extras"),
    "data too deep": ({"data": deep(500)}, 40013, "messages[0].data"),
    "a deep name": ({"name": deep(500), "data": "x"}, 40000, "messages[0].name"),
    "a deep id": ({"id": deep(500)}, 40031, "messages[0].id"),
    "a deep clientId": ({"clientId": deep(500)}, 40012, "messages[0].clientId"),
    "a deep encoding": ({"encoding": deep(500)}, 40013, "messages[0].encoding"),
    MANY_DIGITS: ({"extras": {"a": 10**4000}}, 40032, "messages[0].extras"),
}
ONLY_MSGPACK: dict[str, tuple[Any, int, str]] = {
    "extras as ext in an array": ([UNDEFINED], 40000, "messages[0]"),
    "a name of bytes": ({"name": b"x"}, 40000, "messages[0].name"),
    "binary keys in extras": ({"extras": {b"\xff": 1}}, 40032, "messages[0].extras"),
    "binary keys in an object": ({"data": {b"\xff": 1}}, 40013, "messages[0].data"),
    "ext as a key": ({"extras": {UNDEFINED: 1}}, 40032, "messages[0].extras"),
    "an array as a key": ({"extras": {(1, 2): 1}}, 40032, "messages[0].extras"),
}


# ways in: each publishes one message, and tells the error's code and text, or None


def over_rest(server: Server, kind: str, channel: str, body: Any, *, batch: bool = False) -> tuple[int, str] | None:
    content_type = JSON if kind == "json" else MSGPACK
    if batch:
        body = {"channels": [channel, f"{channel}:more"], "messages": body}
    content = packed(body, kind)
    with RestClient(server.address) as rest:
        path = "/messages" if batch else channel_path(channel)
        content = content.encode() if isinstance(content, str) else content
        answer = rest.ask("POST", path, content, content_type=content_type)
    error = answer.value.get("error")
    if batch and error is None:
        error = answer.value["results"][0].get("error")
    return None if error is None else (error["code"], error["message"])


def over_websocket(client: WsClient, kind: str, channel: str, body: Any) -> tuple[int, str] | None:
    msg_serial = client.next_serial
    client.next_serial += 1
    client.send_raw(packed(frame(channel, msg_serial, body if isinstance(body, list) else [body]), kind))
    answer = client.expect(Action.ACK, Action.NACK, Action.ERROR)
    assert answer["action"] != Action.ERROR, answer
    assert answer["msgSerial"] == msg_serial
    return (answer["error"]["code"], answer["error"]["message"]) if answer["action"] == Action.NACK else None


Way = Callable[[Server, str, str, Any], tuple[int, str] | None]


def fresh(server: Server, kind: str, channel: str, body: Any) -> tuple[int, str] | None:
    """Over a connection that has not published there yet."""
    with WsClient(server.address, format=kind) as client:
        told = over_websocket(client, kind, channel, body)
        client.publish(f"{channel}:after", {"data": "still here"})
    return told


def granted(server: Server, kind: str, channel: str, body: Any) -> tuple[int, str] | None:
    """Over one for which the short way is open, to which it is closed again afterwards by nothing."""
    with WsClient(server.address, format=kind) as client:
        client.publish(f"{channel}:before", {"data": "first"})
        for _ in range(2):
            client.publish(channel, {"data": "plain", "name": "plain"})
        told = over_websocket(client, kind, channel, body)
        client.publish(f"{channel}:before", {"data": "still here"})
    return told


def rest(server: Server, kind: str, channel: str, body: Any) -> tuple[int, str] | None:
    return over_rest(server, kind, channel, body)


def batch(server: Server, kind: str, channel: str, body: Any) -> tuple[int, str] | None:
    return over_rest(server, kind, channel, body, batch=True)


WAYS: list[Way] = [fresh, granted, rest, batch]


def kept(server: Server, channel: str) -> list[dict[str, Any]]:
    """What is stored, as either format has it: they have to agree."""
    with RestClient(server.address) as client:
        pages = [
            client.ask("GET", f"{channel_path(channel)}?direction=forwards", accept=accept).value
            for accept in (JSON, MSGPACK)
        ]
    assert pages[0] == pages[1]
    members = ("name", "data", "encoding", "clientId", "extras")
    stored = [{name: message[name] for name in members if name in message} for message in pages[0]]
    return [message for message in stored if message.get("name") != "plain"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SAME)
def test_one_call_stores_the_same_in_both_formats(server: Server, channel: str, name: str, way: Way) -> None:
    in_json, in_msgpack, stored = SAME[name]
    assert way(server, "json", channel, in_json) is None
    assert way(server, "msgpack", channel, in_msgpack) is None
    assert kept(server, channel) == [stored, stored]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in REFUSED for kind in FORMATS if (name, kind) != (MANY_DIGITS, "msgpack")),
        *((name, "msgpack") for name in ONLY_MSGPACK),
    ],
)
def test_unstorable_value_is_refused_alone_with_its_field(
    server: Server, channel: str, name: str, kind: str, way: Way
) -> None:
    message, code, field = (REFUSED | ONLY_MSGPACK)[name]
    if name == "an array as a key":
        message = {"extras": {"a": 1}}
        way = bent_key(way)
    told = way(server, kind, channel, message)
    assert told is not None and told[0] == code and told[1].startswith(field + ":"), told
    assert len(told[1]) < 300
    assert kept(server, channel) == []


def bent_key(way: Way) -> Way:
    """The same with the key ``a`` of extras made an array of one: the library can't say that."""

    def bent(server: Server, kind: str, channel: str, body: Any) -> tuple[int, str] | None:
        real = msgpack.packb
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(msgpack, "packb", lambda value: real(value).replace(b"\xa1a\x01", b"\x91\x01\x01"))
            return way(server, kind, channel, body)

    return bent


# over TLS it is the same connection's room, by another transport


@pytest.mark.parametrize("kind", FORMATS)
def test_over_tls_it_is_the_same(secure: tuple[Server, Any], channel: str, kind: str) -> None:
    server, context = secure
    with WsClient(server.address, format=kind, tls=context) as client:
        client.publish(f"{channel}:first", {"data": "x"})
        number = 1
        for name, (in_json, in_msgpack, _) in SAME.items():
            client.send_raw(packed(frame(channel, number, [in_json if kind == "json" else in_msgpack]), kind))
            answer = client.skip_to(1, 2, 9)
            assert (answer["action"], answer["msgSerial"]) == (1, number), (name, answer)
            number += 1
        for name, (message, code, _) in REFUSED.items():
            if name != MANY_DIGITS:
                client.send_raw(packed(frame(channel, number, [message]), kind))
                answer = client.skip_to(1, 2, 9)
                assert (answer["action"], answer["error"]["code"]) == (2, code), (name, answer)
                number += 1


# other places of a frame


@pytest.mark.parametrize(
    ("kind", "odd"),
    [
        ("json", HIGH),
        ("msgpack", UNDEFINED),
        ("json", deep(400)),
        ("msgpack", deep(400)),
        ("json", NAN),
        ("json", deep(900)),
    ],
)
def test_an_odd_value_where_nothing_is_read_is_ignored(server: Server, channel: str, kind: str, odd: Any) -> None:
    with WsClient(server.address, format=kind) as client:
        for action in (99, 3, 18):
            client.send_raw(packed({"action": action, "new": odd}, kind))
        client.send_raw(packed({"action": 10, "channel": channel, "new": odd, "auth": odd}, kind))
        assert client.receive()["action"] == Action.ATTACHED
        client.send_raw(packed(frame(channel, 0, [{"data": "x"}], new=odd, auth=[odd], connectionId=odd), kind))
        client.expect(Action.ACK)
        client.send_raw(packed({"action": 12, "channel": channel, "new": {"a": odd}}, kind))
        client.expect(Action.DETACHED)
        assert [message["action"] for message in until_pong(client)] == [Action.MESSAGE]


@pytest.mark.parametrize(("kind", "half"), [("json", HIGH), ("msgpack", "\ufffd")])
def test_half_an_emoji_in_a_channels_name_is_a_name(server: Server, channel: str, kind: str, half: str) -> None:
    with WsClient(server.address, format="json") as reader, WsClient(server.address, format=kind) as client:
        reader.attach(f"{channel}\ufffd")
        client.send_raw(packed({"action": 10, "channel": channel + half}, kind))
        assert client.expect(Action.ATTACHED)["channel"] == f"{channel}\ufffd"
        client.send_raw(packed(frame(channel + half, 0, [{"data": "x"}]), kind))
        client.expect(Action.ACK)
        assert reader.deliveries(f"{channel}\ufffd", 1)[0]["data"] == "x"


def test_half_an_emoji_in_an_id_is_one_and_the_same_id(server: Server, channel: str) -> None:
    with WsClient(server.address) as client:
        first = client.publish(channel, {"id": f"id{HIGH}", "data": "x"})
        assert client.publish(channel, {"id": f"id{HIGH}", "data": "x"}) == first
        assert client.publish(channel, {"id": "id\ufffd", "data": "x"}) == first


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "params", [{"rewind": deep(400)}, deep(400), {"rewind": "x" * 5000}, {"modes": "publish," * 900}]
)
def test_a_bad_param_of_an_attach_is_its_channels_error(server: Server, channel: str, kind: str, params: Any) -> None:
    with WsClient(server.address, format=kind) as client:
        with pytest.raises(RefusedError) as refused:
            client.attach(channel, params=params)
        assert refused.value.status == 400
        client.attach(channel)


@pytest.mark.parametrize(
    "payload",
    [
        '{"action":15,"channel":"c","msgSerial":0,"messages":[{"data":"\\ud83d"]}',
        '{"action":15,"channel":"c","msgSerial":0,"messages":[{"data":"\\ud83"}]}',
        '{"action":15,"channel":"c","msgSerial":0,"messages":[{"data":"\\x"}]}',
        '{"action":15,"channel":"c","msgSerial":0,"messages":[{"data":"\n"}]}',
        '{"action":15,"channel":"c","msgSerial":0,"messages":[{"data":nan}]}',
        '{"action":15,"channel":"c","msgSerial":0,"messages":[{"data":01}]}',
        '{"action":15,"channel":"c","msgSerial":0,"messages":[{"data":"a"},]}',
        b"\x84\xa6action\x0f\xa7channel\xa1c\xa9msgSerial\x00\xa8messages\x91\xc7\xff\x01",
        b"\x84\xa6action\x0f\xa7channel\xa1c\xa9msgSerial\x00\xa8messages\x91\xc1",
        b"\x81\xa6action\x0f\xd4\x00\x00",
    ],
)
def test_what_is_no_frame_ends_its_connection(server: Server, payload: str | bytes) -> None:
    with WsClient(server.address) as client:
        client.send_raw(payload)
        assert client.expect(Action.ERROR)["error"]["code"] == 80013


# msgSerial in forms that encoders write


@pytest.mark.parametrize("text", ["0.0", "0e0", "0E5", "-0", "-0.0", "0.000"])
def test_a_msg_serial_may_be_written_in_other_ways(server: Server, channel: str, text: str) -> None:
    with WsClient(server.address) as client:
        client.send_raw(f'{{"action":1.5e1,"channel":"{channel}","msgSerial":{text},"messages":[{{"data":"x"}}]}}')
        assert client.expect(Action.ACK)["msgSerial"] == 0
        client.send_raw(
            f'{{"msgSerial":7,"action":15,"channel":"{channel}","msgSerial":1,"messages":[{{"data":"y"}}]}}'
        )
        assert client.expect(Action.ACK)["msgSerial"] == 1  # of two the last counts, whoever decodes
