"""What engine.message promises: every rule of a publish has its code and names its field; what is kept can be delivered
in either format, as it was meant."""

from __future__ import annotations

import base64
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import PubSubError
from engine.message import messages_from, publish_from
from ext.wire.encoder import JSON, MSGPACK, EntryEncoder, encode_record
from tests.models import wire as model
from tests.test_wire import SERIAL, SERIES, decoded, extras_maps, records


def kept(messages: list[Any], wire_format: int = JSON) -> list[dict[str, Any]]:
    """The messages of the record."""
    found: list[dict[str, Any]] = msgpack.unpackb(publish_from("c", 0, messages, wire_format).messages)
    return found


def nested(depth: int, inside: Any = 1) -> Any:
    """A map in a map in a map; ``depth`` of them."""
    for level in range(depth):
        inside = [inside] if level % 2 and level < depth - 1 else {"a": inside}
    return inside


REFUSED: list[tuple[Any, int, str]] = [
    (None, 40000, "messages"),
    ({}, 40000, "messages"),
    ("text", 40000, "messages"),
    ([], 40000, "messages"),
    ([None], 40000, "messages[0]"),
    ([{}, "text"], 40000, "messages[1]"),
    ([{}] * 1001, 40034, "messages"),
    ([{}, {"action": 1}], 40000, "messages[1].action"),
    ([{"action": 2}], 40000, "messages[0].action"),
    ([{"action": 5}], 40000, "messages[0].action"),
    ([{"action": 3}], 40000, "messages[0].action"),
    ([{"action": "0"}], 40000, "messages[0].action"),
    ([{"action": []}], 40000, "messages[0].action"),
    ([{"name": 1}], 40000, "messages[0].name"),
    ([{"name": b"a"}], 40000, "messages[0].name"),
    ([{"clientId": 1}], 40012, "messages[0].clientId"),
    ([{"clientId": ""}], 40012, "messages[0].clientId"),
    ([{"id": 1}], 40031, "messages[0].id"),
    ([{"id": ""}], 40031, "messages[0].id"),
    ([{"id": "a:0"}, {}], 40031, "messages[].id"),
    ([{}, {"id": "a:1"}], 40031, "messages[].id"),
    ([{"id": "a:0"}, {"id": "a:2"}], 40031, "messages[1].id"),
    ([{"id": "a:0"}, {"id": "b:1"}], 40031, "messages[1].id"),
    ([{"id": "a:1"}, {"id": "a:2"}], 40031, "messages[0].id"),
    ([{"id": "a"}, {"id": "a"}], 40031, "messages[0].id"),
    ([{"id": "a:0"}, {"id": "a:01"}], 40031, "messages[1].id"),
    ([{}, {}, {}, {"data": 1}], 40013, "messages[3].data"),
    ([{"data": 1.5}], 40013, "messages[0].data"),
    ([{"data": True}], 40013, "messages[0].data"),
    ([{"data": {"a": 1}, "encoding": "json"}], 40013, "messages[0].data"),
    ([{"data": [1], "encoding": "utf-8"}], 40013, "messages[0].data"),
    ([{"data": [float("nan")]}], 40013, "messages[0].data"),
    ([{"data": {"a": [float("inf")]}}], 40013, "messages[0].data"),
    ([{"data": {"a": 1 << 64}}], 40013, "messages[0].data"),
    ([{"data": {b"a": 1}}], 40013, "messages[0].data"),
    ([{"data": nested(300)}], 40013, "messages[0].data"),
    ([{"encoding": 1}], 40013, "messages[0].encoding"),
    ([{"extras": []}], 40032, "messages[0].extras"),
    ([{"extras": "text"}], 40032, "messages[0].extras"),
    ([{"extras": {"a": float("-inf")}}], 40032, "messages[0].extras"),
    ([{"extras": {"a": 1 << 64}}], 40032, "messages[0].extras"),
    ([{"extras": {b"a": 1}}], 40032, "messages[0].extras"),
    ([{"extras": {"a": "\ud800"}}], 40032, "messages[0].extras"),
    ([{"extras": nested(65)}], 40032, "messages[0].extras"),
    ([{"extras": nested(300)}], 40032, "messages[0].extras"),
    ([{"extras": {"ephemeral": True}}, {}], 40032, "messages[].extras.ephemeral"),
]


@pytest.mark.parametrize(("messages", "code", "field"), REFUSED)
@pytest.mark.parametrize("wire_format", [JSON, MSGPACK])
def test_what_is_wrong_is_refused_with_its_code_and_its_field(
    messages: Any, code: int, field: str, wire_format: int
) -> None:
    with pytest.raises(PubSubError) as caught:
        publish_from("c", 0, messages, wire_format)
    assert (caught.value.code, caught.value.status) == (code, 400)
    assert str(caught.value).startswith(f"{field}:")
    assert len(str(caught.value)) < 200


def test_the_bound_on_messages_can_be_lowered_and_not_raised() -> None:
    assert publish_from("c", 0, [{}] * 1000, JSON, max_messages=5000).count == 1000
    assert publish_from("c", 0, [{}] * 3, JSON, max_messages=3).count == 3
    for count, most in (4, 3), (1001, 5000):
        with pytest.raises(PubSubError) as caught:
            publish_from("c", 0, [{}] * count, JSON, max_messages=most)
        assert caught.value.code == 40034


def test_a_publish_carries_what_the_server_checks_and_counts() -> None:
    messages = [
        {"id": "a:0", "clientId": "älice", "name": "n", "data": "€", "extras": {"headers": {"k": 1}}},
        {"id": "a:1", "data": b"123"},
    ]
    publish = publish_from("room:1", 7, messages, MSGPACK)
    assert (publish.channel, publish.msg_serial, publish.count) == ("room:1", 7, 2)
    assert publish.ids == ("a:0", "a:1")
    assert publish.client_ids == ("älice", None)
    assert publish.size == len("älice".encode()) + 1 + 3 + len(b'{"headers":{"k":1}}') + 3
    assert not publish.ephemeral
    assert not publish.privileged


def test_ids_and_client_ids_are_none_when_no_message_names_one() -> None:
    publish = publish_from("c", 0, [{"data": "a"}, {"id": None, "clientId": None}], JSON)
    assert (publish.ids, publish.client_ids) == (None, None)


def test_a_single_message_may_have_any_id() -> None:
    assert publish_from("c", 0, [{"id": "+/=: 0"}], JSON).ids == ("+/=: 0",)


def test_nulls_are_absent_and_empty_text_is_not() -> None:
    nulls = dict.fromkeys(["id", "clientId", "name", "data", "encoding", "extras", "action", "serial", "version"])
    assert kept([nulls]) == [{}]
    assert kept([{"name": "", "data": ""}]) == [{"name": "", "data": ""}]


def test_what_a_record_has_no_place_for_is_dropped() -> None:
    message = {
        "size": 9, "connectionId": "x", "timestamp": 1, "connectionKey": "k", "serial": "s", "version": {}, "action": 0,
        "anything": [], "data": "a",
    }  # fmt: skip
    assert kept([message]) == [{"data": "a"}]


def test_integral_floats_are_integers() -> None:
    assert kept([{"action": 0.0, "data": "a"}]) == [{"data": "a"}]


def test_members_are_kept_in_the_order_of_a_record() -> None:
    message = {"extras": {"a": 1}, "encoding": "e", "data": "d", "name": "n", "clientId": "c", "id": "i"}
    assert list(kept([message])[0]) == model.ORDER


# payloads

PAYLOADS = [  # published in JSON; kept; and what an equal publish in msgpack has as data and encoding
    ({"data": "abc"}, {"data": "abc"}),
    ({"data": ""}, {"data": ""}),
    ({"data": '{"a":1}', "encoding": "json"}, {"data": '{"a":1}', "encoding": "json"}),
    ({"data": "AQID", "encoding": "base64"}, {"data": b"\x01\x02\x03"}),
    ({"data": "", "encoding": "base64"}, {"data": b""}),
    (
        {"data": "AQID", "encoding": "utf-8/cipher+aes-256-cbc/base64"},
        {"data": b"\x01\x02\x03", "encoding": "utf-8/cipher+aes-256-cbc"},
    ),
    (
        {"data": "AQID", "encoding": "json/utf-8/cipher+aes-256-cbc/base64"},
        {"data": b"\x01\x02\x03", "encoding": "json/utf-8/cipher+aes-256-cbc"},
    ),
    ({"data": "QUJD", "encoding": "base64/base64"}, {"data": b"ABC", "encoding": "base64"}),
    ({}, {}),
]


@pytest.mark.parametrize(("sent", "neutral"), PAYLOADS)
def test_payloads_have_the_protocol_forms_in_both_formats(sent: dict[str, Any], neutral: dict[str, Any]) -> None:
    assert kept([sent], JSON) == kept([neutral], MSGPACK) == [neutral]
    record = encode_record("b", None, None, 0, publish_from("c", 0, [sent], JSON).messages)
    for wire_format, wanted in (JSON, sent), (MSGPACK, neutral):
        live = decoded(EntryEncoder(wire_format, "c").payload(SERIAL, SERIES, record), wire_format)["messages"][0]
        past = decoded(messages_from(record, SERIAL, SERIES, wire_format)[0], wire_format)
        for found in (live, past):
            assert {key: found[key] for key in ("data", "encoding") if key in found} == wanted


@pytest.mark.parametrize("text", ["A", "AQI", "AQID=", "A QID", "AQ\nID", "€€€€", "AQ==AQ==", "-_-_", "AR=="])
def test_base64_that_is_none_stays_as_it_came(text: str) -> None:
    message = {"data": text, "encoding": "utf-8/base64"}
    assert kept([message], JSON) == [message]


def test_base64_as_text_in_msgpack_is_text() -> None:
    message = {"data": "AQID", "encoding": "base64"}
    assert kept([message], MSGPACK) == [message]


@pytest.mark.parametrize("data", [{"a": [1, None, "ä"]}, [], {}, [1.5, {"b": None}]])
def test_raw_maps_and_arrays_become_json_text(data: Any) -> None:
    message = kept([{"data": data}])[0]
    assert message["encoding"] == "json"
    assert orjson.loads(message["data"]) == data


def test_binary_in_raw_maps_becomes_base64() -> None:
    message = kept([{"data": {"a": b"\x01\x02\x03"}}], MSGPACK)[0]
    assert orjson.loads(message["data"]) == {"a": "AQID"}


# extras


def test_delta_is_the_servers_to_set() -> None:
    messages = [{"extras": {"delta": {"from": "x"}, "ref": 1}}, {"extras": {"delta": 1}}]
    assert kept(messages) == [{"extras": {"ref": 1}}, {}]


def test_nulls_in_extras_are_dropped_from_maps_not_arrays() -> None:
    extras = {"headers": {"a": None, "b": 1}, "ref": None, "list": [None, {"c": None}]}
    assert kept([{"extras": extras}]) == [{"extras": {"headers": {"b": 1}, "list": [None, {}]}}]


def test_ephemeral_is_for_all_messages_or_for_none() -> None:
    ephemeral = {"extras": {"ephemeral": True}}
    assert publish_from("c", 0, [ephemeral, ephemeral], JSON).ephemeral
    assert not publish_from("c", 0, [{"extras": {"ephemeral": False}}, {}], JSON).ephemeral


def test_privileged_extras_are_reported_whoever_sends_them() -> None:
    assert publish_from("c", 0, [{}, {"extras": {"privileged": {}}}], JSON).privileged
    assert not publish_from("c", 0, [{"extras": {"headers": {"privileged": 1}}}], JSON).privileged


@given(extras_maps)
def test_extras_come_out_as_they_came_in(extras: dict[str, Any]) -> None:
    sent = [{"data": "a", "extras": extras}]
    publish = publish_from("c", 0, sent, MSGPACK)
    record = encode_record("b", None, None, 0, publish.messages)
    neutral = msgpack.unpackb(publish.messages)[0].get("extras", {})
    assert publish.size == 1 + (len(orjson.dumps(model.jsonable(neutral))) if neutral else 0)
    for wire_format in (JSON, MSGPACK):
        live = decoded(EntryEncoder(wire_format, "c").payload(SERIAL, SERIES, record), wire_format)["messages"][0]
        past = decoded(messages_from(record, SERIAL, SERIES, wire_format)[0], wire_format)
        wanted = model.jsonable(neutral) if wire_format == JSON else neutral
        assert live.get("extras", {}) == past.get("extras", {}) == wanted
        assert "delta" not in wanted


def test_the_deepest_extras_that_are_accepted_can_be_delivered() -> None:
    publish = publish_from("c", 0, [{"extras": nested(64)}], JSON)
    record = encode_record("b", None, None, 0, publish.messages)
    for wire_format in (JSON, MSGPACK):
        live = decoded(EntryEncoder(wire_format, "c").payload(SERIAL, SERIES, record), wire_format)
        assert live["messages"][0]["extras"] == nested(64)
        past = decoded(messages_from(record, SERIAL, SERIES, wire_format)[0], wire_format)
        assert past["extras"] == nested(64)


# history


@given(records, st.sampled_from([JSON, MSGPACK]))
def test_history_has_complete_messages_equal_to_live_ones(record: bytes, wire_format: int) -> None:
    live = model.delivery(wire_format, "c", SERIAL, SERIES, record)
    past = [decoded(message, wire_format) for message in messages_from(record, SERIAL, SERIES, wire_format)]
    for found, message in zip(past, live["messages"], strict=True):
        assert found.pop("version") == {"serial": message["serial"], "timestamp": live["timestamp"]}
        assert found.pop("timestamp") == live["timestamp"]
        assert found.pop("connectionId", None) == live.get("connectionId")
        assert found == message


@pytest.mark.parametrize("wire_format", [JSON, MSGPACK])
def test_history_gives_the_wanted_messages_in_order(wire_format: int) -> None:
    record = encode_record("b", None, None, 0, msgpack.packb([{"data": str(n)} for n in range(3)]))
    made = messages_from(record, SERIAL, SERIES, wire_format, range(2, -1, -2))
    assert [decoded(message, wire_format)["id"] for message in made] == ["b:2", "b:0"]
    with pytest.raises(IndexError, match="has none at 3"):
        messages_from(record, SERIAL, SERIES, wire_format, [3])


def test_history_of_a_damaged_record_is_an_error() -> None:
    record = encode_record("b", None, None, 0, msgpack.packb([{"data": "a"}]))
    assert base64.b64encode(record) == b"laFiwMAAkYGkZGF0YaFh"  # the stored form: old data must stay readable
    for damaged in (record[:-1], record + b"\0", b"", b"\xc0"):
        with pytest.raises(ValueError, match="malformed"):
            messages_from(damaged, SERIAL, SERIES, JSON)
