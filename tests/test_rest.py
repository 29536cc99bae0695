"""The REST interface, route by route, as client libraries use it; the server behind it is a small fake."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgpack
import orjson
import pytest
import trio

from engine.auth.capability import Capability
from engine.auth.tokens import Identity
from engine.errors import AuthError, BadRequest, JournalUnavailable
from engine.journal.port import Stored
from engine.names import ChannelName
from ext.publish import Publish
from ext.serial import message_serial_text
from ext.wire import encode_record
from server.admin import Health
from server.publishing import Bounds
from server.request import Request, Response, parse_target
from server.rest import APART_BYTES, TOKEN_REQUEST_BYTES, Rest

NOW = 1_700_000_000_000
SERIES = "abcd1234"
JSON, MSGPACK = "application/json", "application/x-msgpack"


def identity(capability: str = '{"*":["*"]}', client_id: str | None = None, *, wildcard: bool = False) -> Identity:
    return Identity("app1", "app1.key1", client_id, wildcard, Capability.parse(capability), None)


WHO = {
    "root": identity(wildcard=True),
    "reader": identity('{"*":["subscribe","history"]}'),
    "writer": identity('{"room:*":["publish"]}'),
    "anonymous": identity(),
    "alice": identity(client_id="alice"),
}
LIVE = {"conn1!key": ("conn1conn1", None), "conn2!key": ("conn2conn2", "alice")}


class FakeBackend:
    """One app; credentials are ``Bearer <name in WHO>``; what is published can be read back."""

    def __init__(self, *, dev: bool = False) -> None:
        self.dev = dev
        self.entries: list[Stored] = []
        self.published: list[tuple[ChannelName, Publish, str, str | None, str | None]] = []
        self.refuses: Exception | None = None
        self.reasons: tuple[str, ...] = ()
        self.token_requests: list[tuple[str, dict[str, object], str | None]] = []
        self.deleted: list[str] = []

    def now_ms(self) -> int:
        return NOW

    def authenticate(self, params: Mapping[str, str], authorization: str | None, client_id: str | None) -> Identity:
        name = params.get("access_token") or (authorization or "").partition(" ")[2]
        found = WHO.get(name)
        if found is None:
            raise AuthError("unknown credentials", code=40101)
        if client_id is not None and found.wildcard:
            return Identity(found.app_id, found.key_name, client_id, False, found.capability, None)
        if client_id not in (None, found.client_id):
            raise AuthError("another clientId", code=40102)
        return found

    def request_token(self, key_name: str, body: dict[str, object], authorization: str | None) -> dict[str, object]:
        self.token_requests.append((key_name, body, authorization))
        return {"token": "app1.t", "keyName": key_name, "issued": NOW, "expires": NOW + 1, "capability": '{"*":["*"]}'}

    async def publish(
        self,
        identity: Identity,
        channel: ChannelName,
        publish: Publish,
        *,
        base_id: str,
        connection_id: str | None,
        client_id: str | None,
    ) -> list[str]:
        await trio.lowlevel.checkpoint()
        if self.refuses is not None:
            raise self.refuses
        serial = (NOW << 16) + len(self.entries) + 1
        record = encode_record(base_id, connection_id, client_id, 0, publish.messages)
        self.entries.append(Stored(serial, self.entries[-1].serial if self.entries else 0, SERIES, record))
        self.published.append((channel, publish, base_id, connection_id, client_id))
        return [message_serial_text(serial, SERIES, index) for index in range(publish.count)]

    async def read_after(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        return [stored for stored in self.entries if stored.serial > cursor][:limit]

    async def read_before(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        return [stored for stored in reversed(self.entries) if stored.serial < cursor][:limit]

    def retained_from(self, app_id: str, channel: str) -> int:
        return NOW - 120_000

    def series(self, app_id: str, channel: str) -> str:
        return SERIES

    def behalf(self, key_text: str, app_id: str) -> tuple[str, str | None]:
        if key_text not in LIVE:
            raise BadRequest("connectionKey: not that of a live connection", code=40006)
        return LIVE[key_text]

    def health(self) -> Health:
        return Health("0.1.0", 12.5, "synced", self.reasons, {"connections": 3})

    def create_app(self, spec: dict[str, object]) -> dict[str, object]:
        return {"appId": "new", "keys": spec.get("keys", [])}

    async def delete_app(self, app_id: str) -> None:
        self.deleted.append(app_id)


class Server:
    """Asks one Rest, as a library would."""

    def __init__(self, *, dev: bool = False) -> None:
        self.backend = FakeBackend(dev=dev)
        self.rest = Rest(self.backend, Bounds(size=65536, messages=1000))

    def ask(self, method: str, target: str, body: object = b"", *, who: str | None = "root", **headers: str) -> Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if who is not None:
            fields["authorization"] = f"Bearer {who}"
        if not isinstance(body, bytes):
            body = msgpack.packb(body) if fields.get("content-type") == MSGPACK else orjson.dumps(body)
            fields.setdefault("content-type", JSON)
        path, query = parse_target(target)
        return trio.run(self.rest, Request(method, path, query, fields, body, False, "peer"))

    def publish(self, body: object, target: str = "/channels/room:1/messages", **options: Any) -> dict[str, Any]:
        response = self.ask("POST", target, body, **options)
        assert response.status == 201, response.body
        told: dict[str, Any] = value_of(response)
        return told

    def history(self, **headers: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = value_of(self.ask("GET", "/channels/room:1/messages", **headers))
        return found


def value_of(response: Response) -> Any:
    kind = header(response, "content-type")
    assert kind in (JSON, MSGPACK), kind
    return orjson.loads(response.body) if kind == JSON else msgpack.unpackb(response.body)


def header(response: Response, name: str) -> str | None:
    found = [value for given, value in response.headers if given.lower() == name]
    assert len(found) <= 1 or name == "link"
    return found[0] if found else None


def code_of(response: Response) -> tuple[int, int]:
    """Status and code; the same facts must be in body and headers."""
    error = value_of(response)["error"]
    assert error["statusCode"] == response.status
    assert header(response, "x-ably-errorcode") == str(error["code"])
    assert header(response, "x-ably-errormessage")
    assert isinstance(error["message"], str)
    assert (header(response, "www-authenticate") is not None) == (response.status == 401)
    return response.status, error["code"]


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def server() -> Server:
    return Server()


# publishing


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
    assert (message["name"], message["id"], message["clientId"], message["connectionId"]) == ("", "m1", "bob", "conn1conn1")


def test_the_asserted_client_id_is_that_of_messages_which_name_none(server: Server) -> None:
    server.publish({"data": "x"}, x_ably_clientid=b64("b\u00f6b"))
    assert server.history()[0]["clientId"] == "b\u00f6b"
    response = server.ask("POST", "/channels/room:1/messages", {"clientId": "eve"}, x_ably_clientid=b64("bob"))
    assert code_of(response) == (400, 40012)
    response = server.ask("POST", "/channels/room:1/messages", {"data": "x"}, x_ably_clientid="b\u00f6b")
    assert code_of(response) == (400, 40012)


def test_a_token_fills_in_its_client_id(server: Server) -> None:
    server.publish([{"data": "x"}, {"data": "y", "clientId": "alice"}], who="alice")
    assert [message["clientId"] for message in server.history()] == ["alice", "alice"]


def test_publishing_on_behalf_takes_the_connections_id_and_client(server: Server) -> None:
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
    assert code_of(server.ask("POST", "/channels/room:1/messages", body, content_type=kind)) == (400, 40001)


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


# history, time, tokens, health


def test_history_needs_its_operation_and_lists_nothing_as_an_empty_array(server: Server) -> None:
    assert server.history() == []
    assert server.history(who="reader") == []
    assert code_of(server.ask("GET", "/channels/room:1/messages", who="writer")) == (401, 40160)
    assert code_of(server.ask("GET", "/channels/room:1/messages", who=None)) == (401, 40101)
    assert code_of(server.ask("GET", "/channels/%3A%3A/messages")) == (400, 40010)
    assert code_of(server.ask("GET", "/channels//messages")) == (400, 40010)
    assert code_of(server.ask("GET", "/channels/room:1/messages?limit=0")) == (400, 40003)


@pytest.mark.parametrize("resource", ["messages", "history"])
def test_links_are_separate_headers_relative_to_the_request(server: Server, resource: str) -> None:
    server.publish([{"data": "x"}] * 3)
    response = server.ask("GET", f"/channels/room:1/{resource}?limit=2")
    links = [value for name, value in response.headers if name == "Link"]
    assert [link.rpartition("; ")[2] for link in links] == ['rel="first"', 'rel="current"', 'rel="next"']
    assert all(link.startswith(f"<./{resource}?limit=2&direction=backwards&start=0&end={NOW}") for link in links)
    target = links[2][1:].partition(">")[0].removeprefix("./")
    assert len(value_of(server.ask("GET", f"/channels/room:1/{target}"))) == 1


def test_channel_names_may_be_encoded(server: Server) -> None:
    assert server.publish({"data": "x"}, "/channels/room%3Aa%2Fb%20%C3%A9/messages")["channel"] == "room:a/b \u00e9"
    assert server.publish({"data": "x"}, "/channels/%5B%3Frewind=1%5Droom:1/messages")["channel"] == "[?rewind=1]room:1"
    assert [channel.name for channel, *_ in server.backend.published] == ["room:a/b \u00e9", "room:1"]
    assert code_of(server.ask("POST", "/channels/%ff/messages", {"data": "x"})) == (400, 40000)


@pytest.mark.parametrize("who", [None, "root", "nobody"])
def test_the_time_is_told_to_anybody(server: Server, who: str | None) -> None:
    assert value_of(server.ask("GET", "/time", who=who)) == [NOW]
    assert value_of(server.ask("GET", "/time", who=who, accept=MSGPACK)) == [NOW]


def test_a_token_request_is_judged_by_its_own_headers(server: Server) -> None:
    response = server.ask("POST", "/keys/app1.key1/requestToken", {"ttl": None}, who=None, accept=MSGPACK)
    assert (response.status, header(response, "content-type")) == (200, MSGPACK)
    assert value_of(response)["keyName"] == "app1.key1"
    server.ask("POST", "/keys/app1.key1/requestToken?key=app1.key1:secret", who=None)
    basic = f"Basic {b64('app1.key1:secret')}"
    assert server.backend.token_requests == [("app1.key1", {"ttl": None}, None), ("app1.key1", {}, basic)]
    assert code_of(server.ask("POST", "/keys/a.b/requestToken", [1], who=None)) == (400, 40000)
    assert code_of(server.ask("GET", "/keys/app1.key1/requestToken")) == (404, 40400)
    large = b" " * (TOKEN_REQUEST_BYTES + 1)
    assert code_of(server.ask("POST", "/keys/app1.key1/requestToken", large, who=None)) == (413, 40009)


def test_health_says_why_not(server: Server) -> None:
    response = server.ask("GET", "/health", who=None)
    expected = {"status": "ok", "reasons": [], "version": "0.1.0", "uptimeSeconds": 12.5, "durability": "synced"}
    assert (response.status, value_of(response)) == (200, expected | {"connections": 3})
    server.backend.reasons = ("the journal is unavailable: no space left",)
    response = server.ask("GET", "/health", who=None)
    assert (response.status, value_of(response)["status"]) == (503, "degraded")


def test_the_root_says_what_this_is(server: Server) -> None:
    response = server.ask("GET", "/", who=None, origin="https://a")
    assert response.status == 200 and b"Unbroken" in response.body
    assert header(response, "access-control-allow-origin") == "https://a"


# routes, formats, versions, envelopes, browsers


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/nothing"),
        ("PUT", "/channels/room:1/messages"),
        ("POST", "/time"),
        ("POST", "/"),
        ("GET", "/channels"),
        ("GET", "/channels/room:1/messages/"),
        ("GET", "/channels/room:1/presence"),
        ("GET", "/push/channels"),
        ("POST", "/apps"),
        ("DELETE", "/apps/app1"),
        ("GET", "//time"),
    ],
)
def test_an_unknown_route_or_method_is_not_found(server: Server, method: str, target: str) -> None:
    assert code_of(server.ask(method, target)) == (404, 40400)
    assert header(server.ask(method, target, accept=MSGPACK), "content-type") == MSGPACK


@pytest.mark.parametrize(
    ("accept", "query", "expected"),
    [
        (None, "", JSON),
        ("*/*", "", JSON),
        ("*/*", "?format=msgpack", MSGPACK),
        (None, "?format=msgpack", MSGPACK),
        (None, "?format=nonsense", JSON),
        (JSON, "?format=msgpack", JSON),
        (MSGPACK + "," + JSON, "", MSGPACK),
        (JSON + ", " + MSGPACK, "", JSON),
        (JSON + ";q=0.5, " + MSGPACK + ";q=0.9", "", MSGPACK),
        (MSGPACK + ";q=0, " + JSON, "", JSON),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "", JSON),
        ("Application/X-MsgPack; charset=x", "", MSGPACK),
        (";;q=;,,q=nan", "", JSON),
    ],
)
def test_the_format_is_negotiated(server: Server, accept: str | None, query: str, expected: str) -> None:
    headers = {} if accept is None else {"accept": accept}
    assert header(server.ask("GET", "/time" + query, **headers), "content-type") == expected
    assert header(server.ask("GET", "/nothing" + query, **headers), "content-type") == expected


@pytest.mark.parametrize("version", ["1.2", "1.", "2", "5", "6", "999", ""])
def test_versions_are_read_leniently(server: Server, version: str) -> None:
    assert server.ask("GET", "/time", x_ably_version=version).status == 200
    assert server.ask("GET", f"/time?v={version}", x_ably_version="5").status == 200


@pytest.mark.parametrize("version", ["x", "-1", "1.x", ".5", "٢", "1.2.3", "9" * 100])
def test_a_version_that_is_none_is_refused(server: Server, version: str) -> None:
    assert code_of(server.ask("GET", "/time", x_ably_version=version)) == (400, 40017)


@pytest.mark.parametrize(("envelope", "kind"), [("json", JSON), ("msgpack", MSGPACK)])
def test_an_envelope_carries_status_and_headers_in_the_body(server: Server, envelope: str, kind: str) -> None:
    server.publish([{"data": "x"}] * 3)
    response = server.ask("GET", f"/channels/room:1/messages?limit=2&envelope={envelope}")
    assert (response.status, header(response, "content-type"), header(response, "link")) == (200, kind, None)
    value = value_of(response)
    assert value["statusCode"] == 200 and len(value["response"]) == 2
    assert value["headers"]["link"].count("rel=") == 3 and set(value["rel"]) == {"first", "current", "next"}
    assert f"envelope={envelope}" in value["rel"]["next"]
    refused = server.ask("GET", f"/nothing?envelope={envelope}")
    value = value_of(refused)
    assert (refused.status, value["statusCode"], value["response"]["error"]["code"]) == (200, 404, 40400)
    assert value["headers"]["x-ably-errorcode"] == "40400"


@pytest.mark.parametrize("target", ["/time", "/nothing", "/channels/room:1/messages", "/"])
def test_every_response_can_be_read_by_a_browser(server: Server, target: str) -> None:
    for who in ("root", None):
        response = server.ask("GET", target, who=who, origin="https://app.example")
        assert header(response, "access-control-allow-origin") == "https://app.example"
        assert header(response, "access-control-allow-credentials") == "true"
        assert header(response, "vary") == "Origin"
        exposed = header(response, "access-control-expose-headers") or ""
        assert {"Link", "X-Ably-Errorcode", "X-Ably-Errormessage"} <= set(exposed.split(", "))
        response = server.ask("GET", target, who=who)
        assert header(response, "access-control-allow-origin") == "*"
        assert header(response, "access-control-allow-credentials") is None


def test_a_preflight_is_answered_on_any_path(server: Server) -> None:
    for target in ("/time", "/nothing", "/channels/%ff/messages?v=x", "*"):
        response = server.ask(
            "OPTIONS", target, who=None, origin="https://a", access_control_request_headers="authorization,x-own"
        )
        assert (response.status, response.body) == (204, b"")
        assert header(response, "access-control-allow-headers") == "authorization,x-own"
        assert header(response, "access-control-allow-origin") == "https://a"
        assert header(response, "access-control-max-age") == "86400"
        assert "PATCH" in (header(response, "access-control-allow-methods") or "")


def test_an_error_message_is_one_line_in_its_header(server: Server) -> None:
    server.backend.refuses = BadRequest("first\r\nX-Evil: 1\x00 \u6f22 \u00e9", code=40000)
    response = server.ask("POST", "/channels/room:1/messages", {"data": "x"})
    text = header(response, "x-ably-errormessage") or ""
    assert text == "first  X-Evil: 1  \\u6f22 \u00e9"
    text.encode("latin-1")
    assert "\u6f22" in value_of(response)["error"]["message"]


# development mode


def test_apps_can_be_made_and_deleted_in_development_mode() -> None:
    server = Server(dev=True)
    response = server.ask("POST", "/apps", {"keys": [{}]}, who=None)
    assert (response.status, value_of(response)) == (201, {"appId": "new", "keys": [{}]})
    assert server.ask("POST", "/apps", who=None).status == 201
    assert code_of(server.ask("POST", "/apps", [], who=None)) == (400, 40000)
    assert code_of(server.ask("DELETE", "/apps/app1")) == (401, 40162)
    assert code_of(server.ask("DELETE", "/apps/app1?access_token=root", who=None, authorization="Basic eve")) == (401, 40101)
    assert code_of(server.ask("DELETE", "/apps/other", who=None, authorization="Basic root")) == (401, 40101)
    assert server.backend.deleted == []
    response = server.ask("DELETE", "/apps/app1", who=None, authorization="Basic root")
    assert (response.status, response.body, header(response, "content-type")) == (204, b"", None)
    assert server.backend.deleted == ["app1"]


def test_a_bug_is_not_hidden_as_an_answer(server: Server) -> None:
    server.backend.refuses = ZeroDivisionError("planted")
    with pytest.raises(ZeroDivisionError):
        server.ask("POST", "/channels/room:1/messages", {"data": "x"})
