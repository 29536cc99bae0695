"""What may be in a publish over HTTP, to the byte: all of it or nothing is stored, and it comes out as it went in.

Over real connections, by either way in and in both formats; what comes out is looked at live and in history."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.limits import UNCOUNTED_BYTES
from tests.harness import Server, history, request
from tests.restclient import FORMATS, JSON, MSGPACK, WAYS, RestClient
from tests.test_apps import make_app
from tests.wsclient import RefusedError, WsClient

SIZE = 1000  # maxMessageSize of this server: what is beyond it is still small enough for the short way
AES = "utf-8/cipher+aes-256-cbc"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = (
        f"dev = true\n[limits]\nmax_message_size = {SIZE}\nmessages_per_publish = 10\nconnection_state_seconds = 1\n"
    )
    with Server(tmp_path_factory.mktemp("small"), config=config) as running:
        yield running
    assert not running.complaints(), running.complaints()


@pytest.fixture
def rest(small: Server, short: bool, packed: bool) -> Iterator[RestClient]:
    with RestClient(small.address, packed=packed, short=short) as made:
        yield made


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def stored(server: Server, channel: str, *, packed: bool = False) -> list[dict[str, Any]]:
    with RestClient(server.address, packed=packed) as reader:
        answer = reader.ask("GET", f"/channels/{channel}/messages?direction=forwards&limit=1000")
        assert answer.status == 200, answer
        return list(answer.value)


# size: bytes of name, clientId, data and JSON of extras, of all messages together

EXTRAS = len('{"headers":{"k":""}}')
FILLED: dict[str, Callable[[int], Any]] = {  # with so many bytes that count
    "data": lambda n: {"data": "x" * n},
    "letters of two bytes": lambda n: {"data": "é" * (n // 2) + "x" * (n % 2)},
    "letters of four bytes": lambda n: {"data": "🦄" * (n // 4) + "x" * (n % 4)},
    "escaped letters": lambda n: {"data": '"\n\\\u0001' * (n // 4) + "x" * (n % 4)},
    "name": lambda n: {"name": "x" * n},
    "name and data": lambda n: {"name": "é" * 20, "data": "x" * (n - 40)},
    "clientId": lambda n: {"clientId": "c" * 100, "data": "x" * (n - 100)},
    "extras": lambda n: {"extras": {"headers": {"k": "x" * (n - EXTRAS)}}},
    "letters in extras": lambda n: {"extras": {"headers": {"k": "é" * ((n - EXTRAS) // 2) + "x" * (n % 2)}}},
    "extras and data": lambda n: {"extras": {"headers": {"k": "v"}}, "data": "x" * (n - EXTRAS - 1)},
    "encrypted": lambda n: {"data": "x" * n, "encoding": AES},
    "an object": lambda n: {"data": {"k": "x" * (n - len('{"k":""}'))}},
    "an array": lambda n: {"data": ["x" * (n - len('[""]'))]},
    "several": lambda n: [{"name": "a", "data": "x" * 99}, {}, {"data": "x" * (n - 100)}],
    "several with ids": lambda n: [{"id": f"base:{i}", "data": "x" * (n - 600 if i else 600)} for i in range(2)],
    "what does not count": lambda n: {"id": "i" * 50, "encoding": "e" * 50, "size": 7, "data": "x" * n},
}
FILLED_BYTES = {
    "bytes": lambda n: {"data": b"\xff" * n},
    "encrypted bytes": lambda n: {"data": b"\xff" * n, "encoding": AES},
}
FILLED_BASE64 = {
    "bytes as base64": lambda n: {"data": b64(b"\xff" * n), "encoding": "base64"},
    "encrypted bytes as base64": lambda n: {"data": b64(b"\xff" * n), "encoding": f"{AES}/base64"},
    "base64 that is none": lambda n: {"data": "!" * n, "encoding": "base64"},
}


@WAYS
@pytest.mark.parametrize(
    ("packed", "what"),
    [(packed, what) for packed in (False, True) for what in (*FILLED, *(FILLED_BYTES if packed else FILLED_BASE64))],
)
def test_message_at_the_size_limit_is_stored_one_byte_more_not(
    small: Server, channel: str, rest: RestClient, packed: bool, what: str
) -> None:
    filled = (FILLED | FILLED_BYTES | FILLED_BASE64)[what]
    assert rest.post(channel, filled(SIZE + 1)).refusal == (400, 40009)
    batch = rest.ask("POST", "/messages", {"channels": [channel], "messages": filled(SIZE + 1)})
    assert batch.value["results"][0]["error"]["code"] == 40009
    with WsClient(small.address, format="msgpack" if packed else "json") as client:  # it counts as HTTP does
        over, fits = filled(SIZE + 1), filled(SIZE)
        with pytest.raises(RefusedError) as refused:
            client.publish(channel, *(over if isinstance(over, list) else [over]))
        assert refused.value.code == 40009
        assert stored(small, channel) == []
        rest.publish(channel, fits)
        client.publish(f"{channel}-too", *(fits if isinstance(fits, list) else [fits]))
    count = len(fits) if isinstance(fits, list) else 1
    assert len(stored(small, channel)) == len(stored(small, f"{channel}-too")) == count


@WAYS
@FORMATS
def test_so_many_messages_and_no_more(small: Server, channel: str, rest: RestClient) -> None:
    assert rest.post(channel, [{"data": "x"}] * 11).refusal == (400, 40034)
    assert stored(small, channel) == []
    assert len(rest.publish(channel, [{"data": "x"}] * 10)["serials"]) == 10


@WAYS
@FORMATS
@pytest.mark.parametrize(("field", "code"), [("id", 40031), ("encoding", 40013)])
def test_what_does_not_count_has_a_bound_of_its_own(
    small: Server, channel: str, rest: RestClient, packed: bool, field: str, code: int
) -> None:
    fits = "é" * (UNCOUNTED_BYTES // 2)
    with WsClient(small.address, format="msgpack" if packed else "json") as client:
        for over in (fits + "x", "x" * 100_000):
            assert rest.post(channel, {"data": "x", field: over}).refusal == (400, code)
            with pytest.raises(RefusedError) as refused:
                client.publish(channel, {"data": "x", field: over})
            assert refused.value.code == code
        assert stored(small, channel) == []
        rest.publish(channel, {"data": "x", field: fits})
        client.publish(f"{channel}-too", {"data": "x", field: fits})
    assert [stored(small, name)[0][field] for name in (channel, f"{channel}-too")] == [fits] * 2


# all or nothing

WRONG: dict[str, tuple[dict[str, Any], int, int]] = {
    "data": ({"data": 7}, 400, 40013),
    "boolean": ({"data": True}, 400, 40013),
    "encoding": ({"data": "x", "encoding": 1}, 400, 40013),
    "encoded object": ({"data": {}, "encoding": "json"}, 400, 40013),
    "extras": ({"extras": "x"}, 400, 40032),
    "extras array": ({"extras": [1]}, 400, 40032),
    "name": ({"name": 1}, 400, 40000),
    "clientId": ({"clientId": 1}, 400, 40012),
    "empty clientId": ({"clientId": ""}, 400, 40012),
    "wildcard": ({"clientId": "*"}, 400, 40012),
    "update": ({"action": 1, "serial": "x"}, 400, 40000),
    "action": ({"action": 9}, 400, 40000),
    "large": ({"data": "x" * (SIZE + 1)}, 400, 40009),
    "connectionKey": ({"connectionKey": "x"}, 400, 40006),
    "id": ({"id": "b:9"}, 400, 40031),
}


@WAYS
@FORMATS
@pytest.mark.parametrize("what", WRONG)
def test_of_an_array_with_one_bad_message_nothing_is_stored(
    small: Server, channel: str, rest: RestClient, what: str
) -> None:
    wrong, status, code = WRONG[what]
    with WsClient(small.address) as reader:
        reader.attach(channel)
        for place in range(3):
            messages: list[dict[str, Any]] = [{"data": "x"} for _ in range(3)]
            messages[place] = wrong
            assert rest.post(channel, messages).refusal == (status, code), place
            answer = rest.ask("POST", "/messages", {"channels": [channel], "messages": messages})
            assert answer.value["results"][0]["error"]["code"] == code
        rest.publish(channel, {"data": "end"})
        assert reader.deliveries(channel, 1)[0]["data"] == "end"
    assert len(stored(small, channel)) == 1


@WAYS
@FORMATS
def test_parameters_of_a_publish_are_obeyed_or_ignored(small: Server, channel: str, rest: RestClient) -> None:
    assert rest.post(channel, {"data": "x"}, "?_forceNack=true").refusal == (400, 40099)
    for query in ("?quickAck=true", "?_forceNack=false", "?rnd=1&unknown=", "?v=6&format=json", "?request_id=a"):
        rest.publish(channel, {"data": query}, query)
    assert len(stored(small, channel)) == 5


# payloads

Form = tuple[dict[str, Any], dict[str, Any]]  # data and encoding, as JSON has it and as msgpack has it
RAW = b"\x00\x01\xfe\xff"


def alike(data: Any, encoding: str | None = None) -> Form:
    form = {"data": data} if encoding is None else {"data": data, "encoding": encoding}
    return form, form


def raw(encoding: str = "") -> Form:
    """Bytes: in JSON as base64."""
    packed = {"data": RAW, "encoding": encoding} if encoding else {"data": RAW}
    return {"data": b64(RAW), "encoding": f"{encoding}/base64".lstrip("/")}, packed


PAYLOADS: dict[str, Form] = {
    "text": alike("ž 🦄 \u2028 \u0000"),
    "empty text": alike(""),
    "utf-8": alike("x", "utf-8"),
    "json": alike('{"a": [1]}', "json"),
    "unknown": alike("x", "rot13/own"),
    "empty encoding": alike("x", ""),
    "bytes": raw(),
    "bytes of text": raw("utf-8"),
    "encrypted text": raw("utf-8/cipher+aes-128-cbc"),
    "encrypted object": raw("json/utf-8/cipher+aes-256-cbc"),
    "encrypted bytes": raw("cipher+aes-256-cbc"),
    "base64 twice": raw("base64"),
}


@WAYS
@FORMATS
def test_payloads_are_untouched_in_the_form_of_each_format(
    small: Server, channel: str, rest: RestClient, packed: bool
) -> None:
    with WsClient(small.address) as as_json, WsClient(small.address, format="msgpack") as as_msgpack:
        for reader in (as_json, as_msgpack):
            reader.attach(channel)
        for name, forms in PAYLOADS.items():
            rest.publish(channel, {"name": name, **forms[packed]})
        for wire, reader in enumerate((as_json, as_msgpack)):
            for told in (reader.deliveries(channel, len(PAYLOADS)), stored(small, channel, packed=bool(wire))):
                shown = {one["name"]: {key: one[key] for key in ("data", "encoding") if key in one} for one in told}
                expected = {name: forms[wire] for name, forms in PAYLOADS.items()}
                assert {name: _whole(form) for name, form in shown.items()} == {
                    name: _whole(form) for name, form in expected.items()
                }


def _whole(form: dict[str, Any]) -> dict[str, Any]:
    """An empty encoding and none are the same to whoever reads it."""
    return {key: value for key, value in form.items() if key != "encoding" or value}


@WAYS
@FORMATS
def test_objects_and_arrays_become_json_text(small: Server, channel: str, rest: RestClient) -> None:
    for data in ({"a": [1, None, True, 2.5, {"b": "č"}]}, [], {}, [[]]):
        rest.publish(channel, {"data": data})
    for packed in (False, True):
        told = [(message["data"], message["encoding"]) for message in stored(small, channel, packed=packed)]
        assert told == [('{"a":[1,null,true,2.5,{"b":"č"}]}', "json"), ("[]", "json"), ("{}", "json"), ("[[]]", "json")]


@WAYS
@FORMATS
def test_a_message_may_be_empty_and_null_is_nothing(small: Server, channel: str, rest: RestClient) -> None:
    fields = ("id", "name", "data", "encoding", "clientId", "extras", "connectionKey", "action")
    empty: list[Any] = [{}, {"data": None}, dict.fromkeys(fields), [{}, {"data": None}, {"extras": {}}]]
    with WsClient(small.address) as reader:
        reader.attach(channel)
        for body in empty:
            rest.publish(channel, body)
        rest.publish(channel, {"name": "", "data": ""})
        live = reader.deliveries(channel, 7)
    for told in (live, stored(small, channel), stored(small, channel, packed=True)):
        assert not any(
            {"name", "data", "encoding", "clientId", "extras", "connectionId"} & set(one) for one in told[:6]
        )
        assert (told[6]["name"], told[6]["data"]) == ("", "")
        assert all(one["action"] == 0 and one["serial"] == one.get("version", one)["serial"] for one in told)


@WAYS
@FORMATS
def test_what_the_server_sets_is_the_servers(small: Server, channel: str, rest: RestClient) -> None:
    claimed = {"timestamp": 7, "connectionId": "mine", "serial": "0", "version": {"serial": "0"}, "size": 3, "own": 1}
    rest.publish(channel, {**claimed, "data": "x", "extras": {"delta": {"from": "x"}, "ref": {"type": "t"}}})
    (message,) = stored(small, channel)
    assert set(message) == {"id", "data", "extras", "timestamp", "action", "serial", "version"}
    assert message["timestamp"] > 1_600_000_000_000 and message["serial"] > "0016"
    assert message["extras"] == {"ref": {"type": "t"}}


@WAYS
@pytest.mark.parametrize(
    ("body", "kind", "query", "expected"),
    [
        ("é".encode(), "text/plain", "", {"data": "é"}),
        ("é".encode(), "text/plain; charset=utf-8", "?name=n&messageId=m", {"data": "é", "name": "n", "id": "m"}),
        (RAW, "application/octet-stream", "", {"data": RAW}),
        (b"", "application/octet-stream", "", {"data": b""}),
        (RAW, "application/octet-stream", "?encoding=utf-8/cipher%2Baes-256-cbc", {"data": RAW, "encoding": AES}),
        (b'{"a": 1}', JSON, "?enveloped=false", {"data": '{"a": 1}', "encoding": "json"}),
        (b"\x81\xa1a\x01", MSGPACK, "?enveloped=false", {"data": b"\x81\xa1a\x01"}),
        (b"name=a+b&data=c%26d", "application/x-www-form-urlencoded", "", {"name": "a b", "data": "c&d"}),
        (b'{"data":"x"}', "application/json; charset=utf-8", "", {"data": "x"}),
        (b'{"data":"x"}', None, "", {"data": "x"}),
        (b"\x81\xa4data\xa1x", None, "?format=msgpack", {"data": "x"}),
        (b'{"data":"x"}', JSON, "?enveloped=true", {"data": "x"}),
    ],
)
def test_a_body_is_what_its_content_type_says(
    small: Server, channel: str, short: bool, body: bytes, kind: str | None, query: str, expected: dict[str, Any]
) -> None:
    with RestClient(small.address, short=short) as rest:
        rest.publish(channel, body, query, content_type=kind)
    (message,) = stored(small, channel, packed=True)
    assert {name: message[name] for name in ("data", "encoding", "name") if name in message} == {
        name: value for name, value in expected.items() if name != "id"
    }
    assert message["id"] == expected.get("id", message["id"])


@WAYS
@pytest.mark.parametrize("kind", [JSON, MSGPACK, "text/plain", "application/octet-stream"])
def test_a_compressed_body_is_refused_and_not_stored_as_it_is(
    small: Server, channel: str, short: bool, kind: str
) -> None:
    with RestClient(small.address, short=short) as rest:
        for coding in ("gzip", "br", "identity, gzip"):
            answer = rest.post(channel, b"{}", content_type=kind, content_encoding=coding)
            assert answer.refusal == (415, 40001)
        body = b"\x80" if kind == MSGPACK else b"{}"
        rest.publish(channel, body, content_type=kind, content_encoding="identity")
    assert len(stored(small, channel)) == 1


# on behalf of a connection


@WAYS
@FORMATS
def test_a_publish_for_a_connection_is_that_connections(small: Server, channel: str, rest: RestClient) -> None:
    with (
        WsClient(small.address, clientId="alice", echo="false") as alice,
        WsClient(small.address) as nobody,
        WsClient(small.address) as other,
    ):
        for client in (alice, nobody, other):
            client.attach(channel)
        rest.publish(channel, {"data": "a", "connectionKey": alice.connection_key})
        rest.publish(channel, [{"data": "n", "connectionKey": nobody.connection_key}] * 2)
        body = {"channels": channel, "messages": {"data": "b", "connectionKey": alice.connection_key}}
        assert rest.ask("POST", "/messages", body).value["successCount"] == 1
        raw_headers = {"content_type": "text/plain", "x_ably_connectionkey": alice.connection_key}
        rest.publish(channel, b"t", **raw_headers)
        rest.publish(channel, {"data": "end"})
        told = [(m["data"], m.get("connectionId"), m.get("clientId")) for m in other.deliveries(channel, 6)]
        mine, theirs = (alice.connection_id, "alice"), (nobody.connection_id, None)
        assert told == [("a", *mine), ("n", *theirs), ("n", *theirs), ("b", *mine), ("t", *mine), ("end", None, None)]
        assert [m["data"] for m in alice.deliveries(channel, 3)] == ["n", "n", "end"], "no echo of its own"
        assert [m["data"] for m in nobody.deliveries(channel, 6)] == ["a", "n", "n", "b", "t", "end"]
        kept = [(m["data"], m.get("connectionId"), m.get("clientId")) for m in history(small.address, channel)]
        assert kept == told


@WAYS
@FORMATS
def test_a_key_that_is_of_no_live_connection_publishes_nothing(small: Server, channel: str, rest: RestClient) -> None:
    def refused(key: str) -> bool:
        return rest.post(channel, {"data": "x", "connectionKey": key}).refusal == (400, 40006)

    with WsClient(small.address) as live:
        closed = WsClient(small.address)
        closed.close()
        app = make_app(small, {})
        with WsClient(small.address, key=app["keys"][0]["keyStr"]) as foreign:
            assert refused(foreign.connection_key)
        right = live.connection_key
        for key in (closed.connection_key, live.connection_id, right[:-1], right + "x", right.swapcase(), "", "a!b"):
            assert refused(key), key
        assert rest.post(channel, {"data": "x", "connectionKey": 7}).refusal == (400, 40006)
        batch = {"channels": channel, "messages": {"connectionKey": right[:-1]}}
        assert rest.ask("POST", "/messages", batch).value["results"][0]["error"]["code"] == 40006
    assert stored(small, channel) == []
    request(small.address, "DELETE", f"/apps/{app['appId']}", key=app["keys"][0]["keyStr"])


def test_connection_key_works_while_it_can_be_resumed(small: Server, channel: str) -> None:
    with RestClient(small.address) as rest, WsClient(small.address) as client:
        key = client.connection_key
        body = {"data": "x", "connectionKey": key}
        rest.publish(channel, body)
        client.drop()
        rest.publish(channel, body)
        with WsClient(small.address, resume=key) as again:
            rest.publish(channel, {"data": "x", "connectionKey": again.connection_key})
            rest.publish(channel, body)  # of a client that has not seen its new one yet
            again.close()
        assert rest.post(channel, body).refusal == (400, 40006)
    assert [message["connectionId"] for message in stored(small, channel)] == [client.connection_id] * 4
