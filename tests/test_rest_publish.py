"""Publishing over HTTP: every form of it is stored as meant, or refused with its code."""

from __future__ import annotations

import base64

import msgpack
import orjson
import pytest

from engine.errors import JournalUnavailable
from ext.text.serial import message_serial_text
from server.rest.api import APART_BYTES
from tests.rest_server import JSON, MSGPACK, NOW, SERIES, Server, b64, code_of


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
def test_a_message_is_stored_and_its_serial_told(server: Server, kind: str) -> None:
    told = server.publish({"name": "greeting", "data": "hello"}, content_type=kind, accept=kind)
    assert told["channel"] == "room:1"
    assert told["serials"] == [message_serial_text((NOW << 16) + 1, SERIES, 0)]
    (message,) = server.history(accept=kind)
    assert message["id"] == told["messageId"] + ":0"
    assert (message["name"], message["data"], message["action"]) == ("greeting", "hello", 0)
    assert message["serial"] == told["serials"][0] == message["version"]["serial"]
    assert "connectionId" not in message and "clientId" not in message


def test_several_messages_are_one_publish(server: Server) -> None:
    told = server.publish([{"data": str(n)} for n in range(3)])
    assert len(told["serials"]) == 3
    assert [(message["id"], message["data"]) for message in server.history()] == [
        (f"{told['messageId']}:{n}", str(n)) for n in (2, 1, 0)
    ]


def test_base_ids_are_random_and_of_nine_bytes(server: Server) -> None:
    made = [server.publish({"data": "x"})["messageId"] for _ in range(50)]
    assert len(set(made)) == 50
    assert all(len(base64.urlsafe_b64decode(base)) == 9 for base in made)


@pytest.mark.parametrize(
    ("ids", "message_id"),
    [(["mine"], "mine"), (["Ab+/c:0"], "Ab+/c:0"), (["Ab+/c:0", "Ab+/c:1"], "Ab+/c"), ([":0"], ":0")],
)
def test_given_ids_come_back(server: Server, ids: list[str], message_id: str) -> None:
    told = server.publish([{"id": name, "data": "x"} for name in ids])
    assert told["messageId"] == message_id
    assert [message["id"] for message in server.history()] == ids[::-1]


def test_binary_is_the_same_in_both_formats(server: Server) -> None:
    server.publish({"data": b"\x01\x02\xff"}, content_type=MSGPACK)
    server.publish({"data": "AQL/", "encoding": "base64"})
    raw_type = b"\x81\xa4data\xa3\x01\x02\xff"  # as some clients write bytes: a msgpack text that is no UTF-8
    server.publish(raw_type, content_type=MSGPACK)
    for message in server.history(accept=MSGPACK):
        assert message["data"] == b"\x01\x02\xff" and "encoding" not in message
    for message in server.history(accept=JSON):
        assert (message["data"], message["encoding"]) == ("AQL/", "base64")


def test_base64_is_an_encoding_of_json_only(server: Server) -> None:
    body = msgpack.packb({"data": "AQL/", "encoding": "base64"})
    for kind, query in ((MSGPACK, ""), ("", "?format=msgpack"), (MSGPACK, "?format=json")):
        server.publish(body, f"/channels/room:1/messages{query}", content_type=kind)
        message = server.history(accept=MSGPACK)[0]
        assert (message["data"], message["encoding"]) == ("AQL/", "base64")
    for kind, query in ((JSON, "?format=msgpack"), ("", "")):
        server.publish(orjson.dumps(msgpack.unpackb(body)), f"/channels/room:1/messages{query}", content_type=kind)
        assert server.history(accept=MSGPACK)[0]["data"] == b"\x01\x02\xff"


def test_a_form_is_a_message(server: Server) -> None:
    server.publish(b"name=a%20b&data=c%2Bd", content_type="application/x-www-form-urlencoded")
    (message,) = server.history()
    assert (message["name"], message["data"]) == ("a b", "c+d")


def test_json_sent_as_a_form_is_refused_and_not_half_understood(server: Server) -> None:
    response = server.ask(
        "POST", "/channels/room:1/messages", b'{"data":"x"}', content_type="application/x-www-form-urlencoded"
    )
    assert code_of(response) == (400, 40001)
    assert not server.backend.published


@pytest.mark.parametrize(
    ("body", "kind", "query", "data", "encoding"),
    [
        (b"plain \xc3\xa9", "text/plain; charset=utf-8", "", "plain \u00e9", None),
        (b"\x00\xff", "application/octet-stream", "", b"\x00\xff", None),
        (b'{"a": [1]}', JSON, "?enveloped=false", '{"a": [1]}', "json"),
        (b'{"data":"x"}', JSON, "?enveloped=false", '{"data":"x"}', "json"),  # as it is, though it could be a message
        (b"\x81\xa4data\xa1x", MSGPACK, "?enveloped=false", b"\x81\xa4data\xa1x", None),
        (b"AQL/", "text/plain", "?encoding=base64", b"\x01\x02\xff", None),
        (b"", "text/plain", "", "", None),
    ],
)
def test_a_bare_payload_is_published_as_it_is(
    server: Server, body: bytes, kind: str, query: str, data: object, encoding: str | None
) -> None:
    told = server.publish(
        body,
        "/channels/room:1/messages" + query,
        content_type=kind,
        x_ably_name="caf\u00e9".encode().decode("latin-1"),
        x_ably_messageid="m1",
        x_ably_clientid=b64("bob"),
    )
    (message,) = server.history(accept=MSGPACK)
    assert (message["data"], message.get("encoding")) == (data, encoding)
    assert (message["name"], message["id"], message["clientId"]) == ("caf\u00e9", "m1", "bob")
    assert told["messageId"] == "m1"


def test_the_fields_of_a_bare_payload_may_stand_in_the_query(server: Server) -> None:
    target = "/channels/room:1/messages?name=&messageId=m1&clientId=bob&connectionKey=conn1!key"
    server.publish(b"x", target, content_type="text/plain")
    (message,) = server.history()
    assert (message["name"], message["id"], message["clientId"]) == ("", "m1", "bob")
    assert message["connectionId"] == "conn1conn1"


def test_asserted_client_id_applies_to_messages_without_one(server: Server) -> None:
    server.publish({"data": "x"}, x_ably_clientid=b64("b\u00f6b"))
    assert server.history()[0]["clientId"] == "b\u00f6b"
    response = server.ask("POST", "/channels/room:1/messages", {"clientId": "eve"}, x_ably_clientid=b64("bob"))
    assert code_of(response) == (400, 40012)
    response = server.ask("POST", "/channels/room:1/messages", {"data": "x"}, x_ably_clientid="b\u00f6b")
    assert code_of(response) == (400, 40012)


def test_a_token_fills_in_its_client_id(server: Server) -> None:
    server.publish([{"data": "x"}, {"data": "y", "clientId": "alice"}], who="alice")
    assert [message["clientId"] for message in server.history()] == ["alice", "alice"]


def test_who_may_be_anybody_says_so_for_each_message(server: Server) -> None:
    extras = {"headers": {"k": "v"}}  # what has some is looked at in another way
    for message in ({"clientId": "bob"}, {"clientId": "bob", "extras": extras}):
        server.publish([message, {"extras": extras}])
        assert [found.get("clientId") for found in server.history()[:2]] == [None, "bob"]
    refused = server.ask("POST", "/channels/room:1/messages", {"clientId": "bob", "extras": extras}, who="anonymous")
    assert code_of(refused) == (400, 40012)


def test_publish_on_behalf_takes_connection_id_and_client(server: Server) -> None:
    server.publish({"data": "x", "connectionKey": "conn1!key"})
    server.publish({"data": "x", "connectionKey": "conn2!key"})
    server.publish({"data": "x", "connectionKey": None})
    told = [(message.get("connectionId"), message.get("clientId")) for message in server.history()]
    assert told == [(None, None), ("conn2conn2", "alice"), ("conn1conn1", None)]
    assert all("connectionKey" not in message for message in server.history())


@pytest.mark.parametrize(
    ("messages", "who", "code"),
    [
        ({"connectionKey": "nobody's"}, "root", 40006),
        ({"connectionKey": 7}, "root", 40006),
        ([{"connectionKey": "conn1!key"}, {"data": "x"}], "root", 40006),
        ([{"connectionKey": "conn1!key"}, {"connectionKey": "conn2!key"}], "root", 40006),
        ({"connectionKey": "conn2!key", "clientId": "eve"}, "root", 40012),
        ({"connectionKey": "conn2!key"}, "anonymous", 40012),
    ],
)
def test_publishing_on_behalf_makes_nobody_somebody_else(server: Server, messages: object, who: str, code: int) -> None:
    assert code_of(server.ask("POST", "/channels/room:1/messages", messages, who=who)) == (400, code)
    assert not server.backend.published


# What is wrong with each of these in addition to what is wrong with all that follow: the first one decides.
ORDER = [
    ("body", (400, 40001)),
    ("channel", (400, 40010)),
    ("capability", (401, 40160)),
    ("clientId", (400, 40012)),
    ("form", (400, 40032)),
    ("size", (400, 40009)),
    ("forced", (400, 40099)),
    ("journal", (503, 50003)),
]


@pytest.mark.parametrize("first", range(len(ORDER)), ids=[name for name, _ in ORDER])
def test_the_first_thing_wrong_is_the_one_that_is_told(server: Server, first: int) -> None:
    wrong = {name for name, _ in ORDER[first:]}
    message: dict[str, object] = {"data": "x" * (65536 if "size" in wrong else 1), "name": "n"}
    if "form" in wrong:
        message["extras"] = "none"
    if "clientId" in wrong:
        message["clientId"] = "eve"
    body = b"{" if "body" in wrong else orjson.dumps(message)
    channel = "%3Abad" if "channel" in wrong else "room:1"
    query = "?_forceNack=true" if "forced" in wrong else ""
    if "journal" in wrong:
        server.backend.refuses = JournalUnavailable("planted")
    who = "reader" if "capability" in wrong else "anonymous"
    response = server.ask("POST", f"/channels/{channel}/messages{query}", body, who=who, content_type=JSON)
    assert code_of(response) == ORDER[first][1]
    assert not server.backend.published


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([], 40000),
        (7, 40000),
        ("text", 40000),
        ([7], 40000),
        ({"data": 7}, 40013),
        ([{"id": "a:0"}, {"data": "x"}], 40031),
        ([{"id": "a:0"}, {"id": "b:1"}], 40031),
        ([{"data": "x"}] * 1001, 40034),
        ({"clientId": "*"}, 40012),
    ],
)
def test_what_is_no_publish_is_refused_with_its_code(server: Server, body: object, code: int) -> None:
    for kind in (JSON, MSGPACK):
        assert code_of(server.ask("POST", "/channels/room:1/messages", body, content_type=kind)) == (400, code)
    assert not server.backend.published


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", JSON),
        (b'{"a":1', JSON),
        (b"\xff", JSON),
        (b"[" * 100_000, JSON),
        (b"", MSGPACK),
        (b"\x81", MSGPACK),
        (b"\x91" * 100_000, MSGPACK),
        (b"\xc0\xc0", MSGPACK),
        (b"\xdd\xff\xff\xff\xff", MSGPACK),
        (b"\xff", "text/plain"),
        (b"{}", "application/xml"),
        (b"a=%ff", "application/x-www-form-urlencoded"),
    ],
)
def test_a_body_that_cannot_be_decoded_is_refused(server: Server, body: bytes, kind: str) -> None:
    for query in ("", "?enveloped=false") if kind == JSON else ("",):
        response = server.ask("POST", f"/channels/room:1/messages{query}", body, content_type=kind)
        assert code_of(response) == (400, 40001)
    assert not server.backend.published


def test_a_large_body_is_decoded_like_a_small_one(server: Server) -> None:
    many = [{"data": "x" * 60, "name": "n" * 4} for _ in range(1000)]
    assert len(orjson.dumps(many)) > APART_BYTES
    assert len(server.publish(many)["serials"]) == 1000
    broken = orjson.dumps(many)[:-1]
    assert code_of(server.ask("POST", "/channels/room:1/messages", broken, content_type=JSON)) == (400, 40001)


def test_privileged_extras_need_the_operation(server: Server) -> None:
    message = {"extras": {"privileged": {"a": 1}}}
    assert code_of(server.ask("POST", "/channels/room:1/messages", message, who="writer")) == (401, 40160)
    server.publish(message)
