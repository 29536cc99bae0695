"""What ext.wire.encoder, ext.wire.publish and ext.wire.record promise: the quick way in and out says what the slow
way says, to the letter; what is not plain is left to the slow way; and no bytes, however wrong,
are read beyond their end."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.message import publish_from
from ext.wire.encoder import (
    JSON,
    MSGPACK,
    EntryEncoder,
    Publish,
    ack_payload,
    encode_record,
    parse_publish,
    record_ids,
    record_messages,
    record_origin,
)
from server.realtime import wire
from tests.models import wire as model

SERIES = "k3J9s0fA"
SERIAL = 1_700_000_000_123 << 16 | 42
BOUNDARIES = [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536]  # where msgpack and WebSocket lengths change their form

formats = st.sampled_from([JSON, MSGPACK])
texts = st.one_of(st.text(max_size=12), st.sampled_from(["", "a", "\x00\x1f\x7f", '"\\/', "äöü€", "😀" * 9, "x" * 40]))
names = st.text(min_size=1, max_size=12)
positions = st.integers(0, (1 << 63) - 1)
extras_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), texts, st.binary(max_size=5),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip
extras_maps = st.dictionaries(texts, extras_values, min_size=1, max_size=3)
kept_messages = st.fixed_dictionaries(
    {},
    optional={
        "id": names, "clientId": names, "name": texts, "data": st.one_of(texts, st.binary(max_size=20)),
        "encoding": st.sampled_from(["json", "utf-8", "base64", "", "json/utf-8/cipher+aes-128-cbc"]),
        "extras": extras_maps,
    },
).map(lambda message: {key: message[key] for key in model.ORDER if key in message})  # fmt: skip
records = st.builds(
    lambda base, connection, client, flags, messages: encode_record(
        base, connection, client, flags, msgpack.packb(messages)
    ),
    names,
    st.one_of(st.none(), st.just("hZ2kQ9w1Ab")),
    st.one_of(st.none(), texts),
    st.integers(0, 255),
    st.lists(kept_messages, min_size=1, max_size=20),
)


def view(publish: Publish) -> tuple[Any, ...]:
    return (
        publish.channel, publish.msg_serial, publish.count, publish.size, publish.ids, publish.client_ids,
        publish.ephemeral, publish.privileged, publish.messages,
    )  # fmt: skip


def slow(payload: bytes, wire_format: int) -> Publish:
    """What the cold path makes of it. Raises: PubSubError."""
    message = wire.decode(payload, wire_format)
    assert message["action"] == 15
    assert isinstance(message["channel"], str)
    assert message["channel"]
    assert type(message["msgSerial"]) is int
    return publish_from(message["channel"], message["msgSerial"], message.get("messages"), wire_format)


def unframed(frame: bytes) -> tuple[int, bytes, bytes]:
    """The opcode and the payload of the first frame, and what follows it (RFC 6455, 5.2; unmasked, not fragmented)."""
    assert frame[0] & 0xF0 == 0x80
    size, at = frame[1], 2
    if size == 126:
        size, at = int.from_bytes(frame[2:4], "big"), 4
        assert size > 125
    elif size == 127:
        size, at = int.from_bytes(frame[2:10], "big"), 10
        assert size > 65_535
    assert len(frame) >= at + size
    return frame[0] & 15, frame[at : at + size], frame[at + size :]


def decoded(payload: bytes, wire_format: int) -> Any:
    return orjson.loads(payload) if wire_format == JSON else msgpack.unpackb(payload, raw=False)


# in

plain_messages = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(st.none(), texts), "data": st.one_of(st.none(), texts),
        "clientId": st.one_of(st.none(), names),
        "encoding": st.one_of(st.none(), st.sampled_from(["json", "utf-8", "", "base6", "cipher+aes-256-cbc"])),
        "size": st.integers(0, 99), "connectionId": texts, "timestamp": st.integers(0, 1 << 42), "action": st.just(0),
    },
)  # fmt: skip


@st.composite
def plain_publishes(draw: st.DrawFn) -> dict[str, Any]:
    messages = draw(st.lists(plain_messages, min_size=1, max_size=18))
    if draw(st.booleans()):
        base = draw(texts)
        messages = [message | {"id": f"{base}:{index}"} for index, message in enumerate(messages)]
    msg_serial = draw(st.integers(0, 10**18 - 1))
    publish = {"channel": draw(names), "messages": messages, "msgSerial": msg_serial, "action": 15}
    dropped = {"id": texts, "connectionKey": texts, "count": st.just(1), "flags": st.none()}
    publish |= draw(st.fixed_dictionaries({}, optional=dropped))
    return dict(draw(st.permutations(list(publish.items()))))


def written(message: dict[str, Any], wire_format: int, choice: random.Random) -> bytes:
    return model.spelled(message, choice).encode() if wire_format == JSON else msgpack.packb(message)


@given(plain_publishes(), formats, st.randoms(use_true_random=False))
def test_plain_publish_on_the_fast_path_equals_the_slow_path(
    message: dict[str, Any], wire_format: int, choice: random.Random
) -> None:
    payload = written(message, wire_format, choice)
    publish = parse_publish(payload, wire_format)
    assert publish is not None
    assert view(publish) == view(slow(payload, wire_format))


anything = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 1 << 64), st.floats(), texts, st.lists(texts, max_size=2), extras_maps,
    st.binary(max_size=4),
)  # fmt: skip
odd_messages = st.one_of(
    plain_messages,
    st.dictionaries(
        st.sampled_from([*model.ORDER, "action", "size", "timestamp", "connectionId", "version", "x"]),
        st.one_of(texts, anything, st.just("a/base64"), st.just(0)),
        max_size=4,
    ),
    anything,
)
odd_publishes = st.builds(
    lambda plain, odd, messages: plain | odd | ({"messages": messages} if messages is not None else {}),
    plain_publishes(),
    st.dictionaries(
        st.sampled_from(["action", "channel", "msgSerial", "messages", "params", "count", "x"]), anything, max_size=1
    ),
    st.one_of(st.none(), st.lists(odd_messages, max_size=4)),
)


@given(odd_publishes, formats, st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_fast_path_accepts_only_what_the_slow_path_accepts(
    message: dict[str, Any], wire_format: int, choice: random.Random
) -> None:
    message = model.jsonable(message) if wire_format == JSON else message
    try:
        payload = written(message, wire_format, choice)
    except (OverflowError, TypeError):
        return  # beyond 64 bits
    publish = parse_publish(payload, wire_format)
    if publish is not None:
        assert view(publish) == view(slow(payload, wire_format))


@given(plain_publishes(), formats, st.randoms(use_true_random=False), st.data())
@settings(max_examples=150)
def test_damaged_bytes_never_pass_only_the_fast_path(
    message: dict[str, Any], wire_format: int, choice: random.Random, data: st.DataObject
) -> None:
    payload = bytearray(written(message, wire_format, choice))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        what = data.draw(st.sampled_from(["change", "cut", "insert", "repeat"]))
        if what == "change":
            payload[at] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del payload[at : at + data.draw(st.integers(1, 4))]
        elif what == "insert":
            pieces = st.sampled_from([b'"', b"\\", b",", b"{}", b"\\ud8"])
            payload[at:at] = data.draw(st.one_of(st.binary(max_size=3), pieces))
        else:
            payload[at:at] = payload[at : at + 6]
        if not payload:
            return
    publish = parse_publish(bytes(payload), wire_format)
    if publish is not None:
        assert view(publish) == view(slow(bytes(payload), wire_format))


@given(plain_publishes(), formats, st.randoms(use_true_random=False), st.data())
def test_truncated_or_extended_publish_is_not_plain(
    message: dict[str, Any], wire_format: int, choice: random.Random, data: st.DataObject
) -> None:
    payload = written(message, wire_format, choice)
    if wire_format == JSON:
        payload = payload.rstrip()
    assert parse_publish(payload[: data.draw(st.integers(0, len(payload) - 1))], wire_format) is None
    assert parse_publish(payload + b"\x00", wire_format) is None


def json_publish(messages: str, rest: str = "") -> bytes:
    return f'{{"action":15,"channel":"c","msgSerial":7,"messages":{messages}{rest}}}'.encode()


@pytest.mark.parametrize(
    "messages",
    [
        "[]", "{}", "null", "[null]", '[{"data":"a"},]', '[{"data":"a",}]', '[{"data" "a"}]', '[{"data":"a"}',
        '[{"extras":{}}]', '[{"data":{}}]', '[{"data":[]}]', '[{"data":1}]', '[{"data":true}]', '[{"name":1}]',
        '[{"data":"AQID","encoding":"base64"}]', '[{"data":"AQID","encoding":"json/base64"}]', '[{"action":1}]',
        '[{"data":"a","data":"a"}]', '[{"size":1,"size":1}]', '[{"connectionKey":"k"}]', '[{"x":1}]',
        '[{"version":{}}]', '[{"id":""}]', '[{"clientId":""}]', '[{"id":"a:0"},{}]', '[{},{"id":"a:1"}]',
        '[{"id":"a:0"},{"id":"b:1"}]',
        '[{"id":"a:1"},{"id":"a:0"}]', '[{"id":"a"},{"id":"a"}]', '[{"id":"a:0"},{"id":"a:01"}]',
        r'[{"data":"\ud800\ud800"}]', r'[{"data":"\ud800\udbff"}]', r'[{"data":"\ud800\ue000"}]',
        r'[{"data":"\ud800"}]', r'[{"data":"\udc00"}]', r'[{"data":"\ud800\u0041"}]', r'[{"data":"\u00g0"}]',
        r'[{"data":"\x41"}]', r'[{"data":"\u00"}]', '[{"data":"\n"}]', '[{"data":"\x00"}]', '[{"data":\'a\'}]',
        '[{"timestamp":1.5}]', '[{"size":-1}]', '[{"size":01}]', '[{"size":1e3}]', '[{"action":0.0}]',
    ],
)  # fmt: skip
def test_messages_in_unusual_json_go_to_the_slow_path(messages: str) -> None:
    assert parse_publish(json_publish('[{"data":"a"}]'), JSON) is not None
    assert parse_publish(json_publish(messages), JSON) is None


@pytest.mark.parametrize(
    "payload",
    [
        json_publish('[{"data":"a"}]', ',"params":{}'),
        json_publish('[{"data":"a"}]', ',"params":null'),
        json_publish('[{"data":"a"}]', ',"msgSerial":8'),
        json_publish('[{"data":"a"}]', ',"messages":[{"data":"a"}]'),
        json_publish('[{"data":"a"}]', ',"id":"a","id":"a"'),
        json_publish('[{"data":"a"}]') + b"x",
        b'{"action":15,"channel":"","msgSerial":7,"messages":[{"data":"a"}]}',
        b'{"action":15,"channel":null,"msgSerial":7,"messages":[{"data":"a"}]}',
        b'{"action":15,"channel":"c","messages":[{"data":"a"}]}',
        b'{"action":15,"channel":"c","msgSerial":-1,"messages":[{"data":"a"}]}',
        b'{"action":15,"channel":"c","msgSerial":9223372036854775808,"messages":[{"data":"a"}]}',
        b'{"action":14,"channel":"c","msgSerial":7,"messages":[{"data":"a"}]}',
        b'{"action":15,"channel":"c","msgSerial":7,"messages":[{"data":"\xff"}]}',
        b'{"action":15,"channel":"c","msgSerial":7,"messages":[{"connectionId":"\xff","data":"a"}]}',
        b'{"action":15,"channel":"\xed\xa0\x80","msgSerial":7,"messages":[{"data":"a"}]}',
        b"[]", b"", b"null", b'"', b"{", b'{"', b'{"action"', b'{"action":',
    ],
)  # fmt: skip
def test_protocol_messages_in_unusual_json_go_to_the_slow_path(payload: bytes) -> None:
    assert parse_publish(payload, JSON) is None


@pytest.mark.parametrize(
    "message",
    [
        {"data": 1}, {"data": 1.5}, {"data": {}}, {"data": []}, {"name": b"a"}, {"id": b"a"}, {"encoding": b"a"},
        {"extras": {}}, {"action": 1}, {"action": 0.0}, {"size": 1.5}, {b"data": "a"}, {"clientId": ""}, {"x": None},
    ],
)  # fmt: skip
def test_messages_in_unusual_msgpack_go_to_the_slow_path(message: dict[Any, Any]) -> None:
    payload = msgpack.packb({"action": 15, "channel": "c", "msgSerial": 7, "messages": [message]})
    assert parse_publish(payload, MSGPACK) is None


def test_invalid_utf8_in_msgpack_is_binary_on_the_slow_path() -> None:
    payload = b"\x84\xa6action\x0f\xa7channel\xa1c\xa9msgSerial\x07\xa8messages\x91\x81\xa4data\xa2\xff\xfe"
    assert parse_publish(payload, MSGPACK) is None
    assert slow(payload, MSGPACK).messages == msgpack.packb([{"data": b"\xff\xfe"}])


def test_integers_of_msgpack_may_have_any_width() -> None:
    for number in [b"\x0f", b"\xcc\x0f", b"\xcd\x00\x0f", b"\xce\0\0\0\x0f", b"\xcf\0\0\0\0\0\0\0\x0f", b"\xd0\x0f",
                   b"\xd1\x00\x0f", b"\xd2\0\0\0\x0f", b"\xd3\0\0\0\0\0\0\0\x0f"]:  # fmt: skip
        payload = b"\x84\xa6action" + number + b"\xa7channel\xa1c\xa9msgSerial" + number + b"\xa8messages\x91\x80"
        publish = parse_publish(payload, MSGPACK)
        assert publish is not None
        assert publish.msg_serial == 15


def test_a_publish_has_at_most_a_thousand_messages() -> None:
    for wire_format, dump in (JSON, orjson.dumps), (MSGPACK, msgpack.packb):
        message = {"action": 15, "channel": "c", "msgSerial": 0, "messages": [{"id": f"a:{n}"} for n in range(1000)]}
        publish = parse_publish(dump(message), wire_format)
        assert publish is not None
        assert publish.count == 1000
        message["messages"] = [{}] * 1001
        assert parse_publish(dump(message), wire_format) is None


@pytest.mark.parametrize("size", BOUNDARIES)
@pytest.mark.parametrize("wire_format", [JSON, MSGPACK])
def test_lengths_at_which_the_encodings_change_pass_unchanged(size: int, wire_format: int) -> None:
    for data in ("\n" + "x" * (size - 1) if size else "", b"y" * size):
        if isinstance(data, bytes) and wire_format == JSON:
            continue
        message = {"action": 15, "channel": "c", "msgSerial": 0, "messages": [{"data": data}]}
        payload = orjson.dumps(message) if wire_format == JSON else msgpack.packb(message)
        publish = parse_publish(payload, wire_format)
        assert publish is not None
        assert publish.size == size
        assert view(publish) == view(slow(payload, wire_format))
        record = encode_record("i", None, None, 0, publish.messages)
        for out in (JSON, MSGPACK):
            opcode, sent, rest = unframed(EntryEncoder(out, "c").frame(SERIAL, SERIES, record))
            assert (opcode, rest) == (1 if out == JSON else 2, b"")
            assert decoded(sent, out) == model.delivery(out, "c", SERIAL, SERIES, record)


# out


@given(records, formats, names, positions)
def test_a_frame_says_what_the_record_says(record: bytes, wire_format: int, channel: str, serial: int) -> None:
    encoder = EntryEncoder(wire_format, channel)
    payload = encoder.payload(serial, SERIES, record)
    assert decoded(payload, wire_format) == model.delivery(wire_format, channel, serial, SERIES, record)
    assert unframed(encoder.frame(serial, SERIES, record)) == (1 if wire_format == JSON else 2, payload, b"")


@given(records, formats, positions, st.data())
def test_frame_may_begin_with_any_message_under_the_same_names(
    record: bytes, wire_format: int, serial: int, data: st.DataObject
) -> None:
    whole = model.delivery(wire_format, "room", serial, SERIES, record)
    first = data.draw(st.integers(0, len(whole["messages"]) - 1))
    _, payload, _ = unframed(EntryEncoder(wire_format, "room").frame(serial, SERIES, record, first=first))
    assert decoded(payload, wire_format) == {**whole, "messages": whole["messages"][first:]}
    with pytest.raises(ValueError, match="has none from index"):
        EntryEncoder(wire_format, "room").frame(serial, SERIES, record, first=len(whole["messages"]))


@given(plain_publishes(), formats, formats, st.randoms(use_true_random=False))
def test_publish_in_one_format_is_delivered_in_the_other(
    message: dict[str, Any], wire_in: int, wire_out: int, choice: random.Random
) -> None:
    publish = parse_publish(written(message, wire_in, choice), wire_in)
    assert publish is not None
    record = encode_record("b", "hZ2kQ9w1Ab", None, 0, publish.messages)
    got = decoded(EntryEncoder(wire_out, publish.channel).payload(SERIAL, SERIES, record), wire_out)
    for sent, found in zip(message["messages"], got["messages"], strict=True):
        for key in ("name", "data", "encoding", "clientId"):
            assert found.get(key) == sent.get(key)
            assert (key in found) == (sent.get(key) is not None)
        assert set(found) <= {"id", "name", "data", "encoding", "clientId", "action", "serial"}


@given(records, st.data())
@settings(max_examples=200)
def test_a_record_is_refused_if_and_only_if_it_is_malformed(record: bytes, data: st.DataObject) -> None:
    damaged = bytearray(record)
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        what = data.draw(st.sampled_from(["change", "cut", "insert"]))
        if what == "change":
            damaged[at] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del damaged[at : at + data.draw(st.integers(1, 4))]
        else:
            damaged[at:at] = data.draw(st.binary(max_size=3))
        if not damaged:
            break
    right = model.is_record(bytes(damaged))
    for read in (
        lambda: EntryEncoder(JSON, "c").payload(SERIAL, SERIES, bytes(damaged)),
        lambda: EntryEncoder(MSGPACK, "c").frame(SERIAL, SERIES, bytes(damaged)),
        lambda: record_ids(bytes(damaged)),
    ):
        if right:
            read()
        else:
            with pytest.raises(ValueError, match=r"malformed|version"):
                read()


@pytest.mark.parametrize("version", [1, 2, 255, 1 << 50])
def test_a_record_of_a_version_to_come_is_refused_by_its_number(version: int) -> None:
    record = encode_record("b", None, None, version << 8, msgpack.packb([{"data": "x"}]))
    for read in (lambda: EntryEncoder(JSON, "c").payload(SERIAL, SERIES, record), lambda: record_ids(record)):
        with pytest.raises(ValueError, match=f"version {version}, and this server reads version 0"):
            read()


@given(records, st.data())
def test_truncated_or_extended_record_is_malformed(record: bytes, data: st.DataObject) -> None:
    for damaged in (record[: data.draw(st.integers(0, len(record) - 1))], record + b"\xc0"):
        with pytest.raises(ValueError, match="malformed"):
            EntryEncoder(JSON, "c").frame(SERIAL, SERIES, damaged)


@pytest.mark.parametrize(
    "message",
    [
        b"\x82\xa4name\xa1a\xa4name\xa1a", b"\x82\xa4data\xa1a\xa4name\xa1a", b"\x82\xa6extras\x80\xa2id\xa1a",
        b"\x81\xa4size\xa1a", b"\x81\xa4name\xc4\x01a", b"\x81\xa4name\xc0", b"\x81\xa4data\x01",
        b"\x81\xc4\x04name\xa1a", b"\x81\xa4data\xa1\xff", b"\x90", b"\xc0",
    ],
)  # fmt: skip
def test_record_messages_have_ordered_unique_typed_members(message: bytes) -> None:
    for wire_format in (JSON, MSGPACK):
        encoder = EntryEncoder(wire_format, "c")
        encoder.frame(SERIAL, SERIES, encode_record("i", None, None, 0, b"\x91\x82\xa4name\xa1a\xa4data\xc4\x01a"))
        with pytest.raises(ValueError, match="malformed"):
            encoder.frame(SERIAL, SERIES, encode_record("i", None, None, 0, b"\x91" + message))


def with_extras(extras: bytes) -> bytes:
    return encode_record("i", None, None, 0, b"\x91\x81\xa6extras" + extras)


@pytest.mark.parametrize(
    "extras",
    [
        b"\xc0", b"\x90", b"\xa1a", b"\x81\x01\x01", b"\x81\xc4\x01a\x01", b"\x81\xa1a", b"\x81\xa1\xff\x01",
        b"\x81\xa1a\xa1\xff", b"\x81\xa1a\xcb\x7f\xf8\0\0\0\0\0\0", b"\x81\xa1a\xca\x7f\x80\0\0", b"\x81\xa1a\xd4\0\0",
        b"\x81\xa1a\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x81\xa1a" * 64 + b"\x80",
        b"\x81\xa1a" + b"\x91" * 64 + b"\x01",
    ],
)  # fmt: skip
def test_extras_that_could_not_be_delivered_are_malformed(extras: bytes) -> None:
    for wire_format in (JSON, MSGPACK):
        EntryEncoder(wire_format, "c").frame(SERIAL, SERIES, with_extras(b"\x81\xa1a" * 63 + b"\x80"))
        with pytest.raises(ValueError, match="malformed"):
            EntryEncoder(wire_format, "c").frame(SERIAL, SERIES, with_extras(extras))


def test_a_delivery_is_written_as_the_protocol_shows_it() -> None:
    record = encode_record("c1:7", "hZ2kQ9w1Ab", "alice", 0, msgpack.packb([{"name": "greeting", "data": "hello"}]))
    assert EntryEncoder(JSON, "room:1").payload(SERIAL, SERIES, record) == (
        b'{"action":15,"channel":"room:1","channelSerial":"001700000000123-00042@k3J9s0fA","id":"c1:7",'
        b'"connectionId":"hZ2kQ9w1Ab","timestamp":1700000000123,"messages":[{"id":"c1:7:0","clientId":"alice",'
        b'"name":"greeting","data":"hello","action":0,"serial":"001700000000123-00042@k3J9s0fA:000"}]}'
    )


def test_an_entry_without_connection_and_client_has_no_nulls() -> None:
    record = encode_record("a", None, None, 0, msgpack.packb([{"name": "", "data": ""}]))
    for wire_format in (JSON, MSGPACK):
        got = decoded(EntryEncoder(wire_format, "c").payload(SERIAL, SERIES, record), wire_format)
        assert set(got) == {"action", "channel", "channelSerial", "id", "timestamp", "messages"}
        assert got["messages"][0] == {
            "id": "a:0", "name": "", "data": "", "action": 0, "serial": f"001700000000123-00042@{SERIES}:000"
        }  # fmt: skip


def test_an_entry_of_a_thousand_messages_numbers_them_all() -> None:
    record = encode_record("b", None, None, 0, msgpack.packb([{}] * 1000))
    for wire_format in (JSON, MSGPACK):
        got = decoded(EntryEncoder(wire_format, "c").payload(SERIAL, SERIES, record), wire_format)
        assert [message["id"] for message in got["messages"]] == [f"b:{n}" for n in range(1000)]
        assert got["messages"][999]["serial"].endswith(":999")
    assert record_messages(record) == 1000
    with pytest.raises(ValueError, match="malformed"):
        record_ids(encode_record("b", None, None, 0, msgpack.packb([{}] * 1001)))
    with pytest.raises(ValueError, match="malformed"):
        record_ids(encode_record("b", None, None, 0, b"\x90"))


def test_a_record_tells_its_ids_its_origin_and_its_count() -> None:
    record = encode_record("b", "hZ2kQ9w1Ab", None, 1, msgpack.packb([{"id": "x:0"}, {}]))
    assert msgpack.unpackb(record) == ["b", "hZ2kQ9w1Ab", None, 1, [{"id": "x:0"}, {}]]
    assert record_ids(record) == ["x:0", "b:1"]
    assert record_messages(record) == 2
    assert 0 < record_origin(record) < 1 << 60
    assert record_origin(encode_record("b", None, None, 0, b"\x91\x80")) == 0


def test_encoder_refuses_unknown_formats_and_series() -> None:
    with pytest.raises(ValueError, match="format"):
        EntryEncoder(2, "c")
    with pytest.raises(ValueError, match="series"):
        EntryEncoder(JSON, "c").frame(SERIAL, "short", encode_record("b", None, None, 0, b"\x91\x80"))


# acknowledgements

places = st.integers(0, 999).flatmap(
    lambda first: st.tuples(positions, st.just(SERIES), st.just(first), st.integers(1, min(20, 1000 - first)))
)


@given(formats, positions, st.lists(places, min_size=1, max_size=20))
def test_an_ack_names_every_serial_of_every_publish(
    wire_format: int, msg_serial: int, stored: list[tuple[int, str, int, int]]
) -> None:
    got = decoded(ack_payload(wire_format, msg_serial, stored), wire_format)
    assert got == model.ack(msg_serial, stored)


def test_an_ack_of_nothing_or_of_too_many_messages_is_refused() -> None:
    for stored in ([], [(SERIAL, SERIES, 0, 1001)], [(SERIAL, SERIES, 1000, 0)], [(SERIAL, SERIES, 999, 2)]):
        with pytest.raises(ValueError, match=r"nothing|at most"):
            ack_payload(JSON, 0, stored)
