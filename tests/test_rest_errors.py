"""Every route, with everything that can be wrong with a request: status, code, body and headers, in the form asked for.

A table of routes (they are those of the OpenAPI document) times a table of faults, over real connections."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
import pytest

from server.rest.openapi import document
from tests.harness import Server, request, token
from tests.restclient import JSON, MSGPACK, Answer, RestClient

ROUTES = [(method.upper(), path) for path, methods in document(dev=True)["paths"].items() for method in methods]
PUBLIC = {"/time", "/health", "/openapi.json", "/apps"}  # of anybody
LISTS = {"messages", "history", "channels", "stats"}  # last segments of what comes in pages
BATCH = {"channels": "room", "messages": {}}
EXPOSED = {"Link", "Retry-After", "X-Ably-Errorcode", "X-Ably-Errormessage"}
ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("errors"), arguments=["--dev"]) as running:
        yield running
    assert not running.complaints(), running.complaints()


@pytest.fixture(scope="module")
def weak(dev: Server) -> str:
    return token(dev.address, {"elsewhere": ["push-admin"]})


def path_of(path: str, channel: str = "room", key: str = "app1.key1", app: str = "none") -> str:
    return path.replace("{channelId}", channel).replace("{keyName}", key).replace("{appId}", app)


def is_public(path: str, method: str) -> bool:
    return path in PUBLIC and (method == "GET" or path == "/apps")


@dataclass(frozen=True)
class Fault:
    """What is sent, and what must come back; ``where`` picks the routes it is a fault for."""

    status: int
    code: int
    where: Callable[[str, str], bool] = lambda method, path: True
    method: str | None = None
    path: Callable[[str], str] = path_of
    query: str = ""
    body: bytes | None = None
    kind: str | None = None
    authorization: str | None = ""  # None: none at all; empty: the usual


def takes_a_body(method: str, path: str) -> bool:
    return method == "POST"


def needs_a_body(method: str, path: str) -> bool:
    return method == "POST" and not path.startswith(("/keys", "/apps"))


def is_private(method: str, path: str) -> bool:
    return not is_public(path, method)


def is_a_list(method: str, path: str) -> bool:
    return method == "GET" and path.rpartition("/")[2] in LISTS


def of_a_channel(method: str, path: str) -> bool:
    return "{channelId}" in path


def with_rights(method: str, path: str) -> bool:
    return of_a_channel(method, path) or (method, path) in (("GET", "/channels"), ("GET", "/stats"))


FAULTS = {
    "a method that nobody knows": Fault(405, 40500, method="BREW"),
    "PUT": Fault(405, 40500, method="PUT"),
    "no such path": Fault(404, 40400, path=lambda path: path_of(path) + "/more/of/it"),
    "a slash behind": Fault(404, 40400, lambda m, p: p not in ("/channels", "/apps"), path=lambda p: path_of(p) + "/"),
    "another case": Fault(404, 40400, path=lambda path: path_of(path).upper()),
    "a path that is no UTF-8": Fault(
        400, 40000, lambda m, p: "{" in p, path=lambda p: path_of(p, "%ff", "%c3%28", "%80")
    ),
    "a channel that cannot be": Fault(400, 40010, of_a_channel, path=lambda p: path_of(p, "%3Aroom")),
    "a channel without a name": Fault(400, 40010, lambda m, p: of_a_channel(m, p), path=lambda p: path_of(p, "")),
    "a version that is none": Fault(400, 40017, query="?v=one"),
    "a query that is no UTF-8": Fault(400, 40000, query="?a=%ff"),
    "a query of hundreds": Fault(400, 40000, query="?" + "a=b&" * 300),
    "no credentials": Fault(401, 40101, lambda m, p: is_private(m, p) and m != "DELETE", authorization=None),
    "an unknown key": Fault(401, 40101, is_private, authorization="Basic YS5iOmM="),
    "a wrong secret": Fault(401, 40101, is_private, authorization="Basic YXBwMS5rZXkxOndyb25n"),
    "no base64": Fault(401, 40101, is_private, authorization="Basic ?"),
    "an unknown token": Fault(
        401, 40101, lambda m, p: is_private(m, p) and m != "DELETE" and "requestToken" not in p,
        authorization="Bearer nonsense",
    ),
    "too few rights": Fault(401, 40160, with_rights, authorization="weak"),
    "a token where a key is wanted": Fault(
        401, 40162, lambda m, p: m == "DELETE" or p.startswith("/keys"), authorization="weak"
    ),
    "another content type": Fault(400, 40001, takes_a_body, body=b"<a/>", kind="application/xml"),
    "JSON cut short": Fault(400, 40001, takes_a_body, body=b'{"data": "x"', kind=JSON),
    "JSON that is no UTF-8": Fault(400, 40001, takes_a_body, body=b'{"data": "\xff"}', kind=JSON),
    "JSON too deep": Fault(400, 40001, takes_a_body, body=b"[" * 50_000, kind=JSON),
    "JSON with more behind": Fault(400, 40001, takes_a_body, body=b"{}{}", kind=JSON),
    "msgpack cut short": Fault(400, 40001, takes_a_body, body=b"\x81\xa4data", kind=MSGPACK),
    "msgpack too deep": Fault(400, 40001, takes_a_body, body=b"\x91" * 50_000, kind=MSGPACK),
    "msgpack that promises much": Fault(400, 40001, takes_a_body, body=b"\xdd\xff\xff\xff\xff", kind=MSGPACK),
    "msgpack with more behind": Fault(400, 40001, takes_a_body, body=b"\x80\x80", kind=MSGPACK),
    "a form that is no UTF-8": Fault(
        400, 40001, takes_a_body, body=b"a=%ff", kind="application/x-www-form-urlencoded"
    ),
    "JSON that is called a form": Fault(
        400, 40001, takes_a_body,
        body=b' {"capability":{"a=b":["subscribe"]}}', kind="application/x-www-form-urlencoded"
    ),
    "an array that is called a form": Fault(
        400, 40001, takes_a_body, body=b'[{"capability":"&"}]', kind="application/x-www-form-urlencoded"
    ),
    "no body": Fault(400, 40001, needs_a_body, body=b"", kind=JSON),
    "a number": Fault(400, 40000, takes_a_body, body=b"7", kind=JSON),
    "a text": Fault(400, 40000, takes_a_body, body=b"\xa1x", kind=MSGPACK),
    "an array of numbers": Fault(400, 40000, takes_a_body, body=b"[7]", kind=JSON),
    "a body too large": Fault(413, 40009, body=b" " * (2 * 1024 * 1024 + 1), kind=JSON),
    "limit=0": Fault(400, 40003, is_a_list, query="?limit=0"),
    "limit=1001": Fault(400, 40003, is_a_list, query="?limit=1001"),
    "limit=abc": Fault(400, 40003, is_a_list, query="?limit=abc"),
}  # fmt: skip

# The form that is asked for, and the one that is got: Accept, more in the query, type, inside an envelope.
FORMS: list[tuple[str | None, str, str, bool]] = [
    (None, "", JSON, False),
    (MSGPACK, "", MSGPACK, False),
    (f"{MSGPACK}, {JSON}", "format=json", MSGPACK, False),
    ("*/*", "format=msgpack", MSGPACK, False),
    ("text/html", "format=yaml", JSON, False),
    (MSGPACK, "envelope=json", JSON, True),
    (JSON, "envelope=msgpack", MSGPACK, True),
]


@pytest.mark.parametrize("name", FAULTS)
def test_every_error_is_told_in_the_requested_format(dev: Server, weak: str, name: str) -> None:
    fault = FAULTS[name]
    routes = [route for route in ROUTES if fault.where(*route)]
    assert routes, "a fault that no route has"
    for number, (method, path) in enumerate(routes):
        # All forms for one route, and one for each of the others in turn: all of all would take minutes.
        for form in FORMS if number == 0 else (FORMS[number % len(FORMS)],):
            told = ask(dev, fault, method, path, form, weak)
            assert told == (fault.status, fault.code), (method, path, form)


def ask(
    server: Server, fault: Fault, method: str, path: str, form: tuple[str | None, str, str, bool], weak: str
) -> tuple[int, int]:
    """Status and code, as the body has them, once everything around has been compared with it."""
    accept, more, kind, enveloped = form
    query = "&".join(filter(None, (fault.query.removeprefix("?"), more)))
    target = fault.path(path) + (f"?{query}" if query else "")
    headers: dict[str, str | None] = {"accept": accept, "origin": ORIGIN}
    if fault.authorization != "":
        headers["authorization"] = f"Bearer {weak}" if fault.authorization == "weak" else fault.authorization
    body = fault.body
    if body is None and method == "POST":
        body = json.dumps(BATCH if path == "/messages" else {}).encode()
    headers["content_type"] = fault.kind if fault.kind else JSON
    with RestClient(server.address) as rest:
        answer = rest.ask(fault.method or method, target, body, **headers)
    if "query" in fault.query or fault.query.startswith("?a="):
        enveloped = False  # a query that cannot be read says nothing about envelopes or formats
        kind = MSGPACK if accept and accept.startswith(MSGPACK) else JSON
    assert answer.headers["content-type"] == kind
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert set(answer.headers["access-control-expose-headers"].split(", ")) >= EXPOSED
    if enveloped:
        assert answer.status == 200 and "x-ably-errorcode" not in answer.headers
        answer = Answer(answer.value["statusCode"], answer.value["headers"], answer.value["response"])
    if answer.status == 405:
        allowed = answer.headers["allow"].split(", ")
        assert method in allowed and (fault.method or method) not in allowed
    return answer.refusal


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[" ".join(route) for route in ROUTES])
def test_a_route_has_its_methods_and_no_others(dev: Server, method: str, path: str) -> None:
    methods = {known for known, of in ROUTES if of == path}
    with RestClient(dev.address) as rest:
        for other in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "LINK"} - methods:
            answer = rest.ask(other, path_of(path), b"{}" if other in ("POST", "PUT", "PATCH") else None)
            if other == "GET":
                assert answer.refusal == (404, 40400)
            else:
                assert answer.refusal == (405, 40500)
                expected = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
                assert set(answer.headers["allow"].split(", ")) == expected
        assert rest.ask("OPTIONS", path_of(path), authorization=None).status == 204


@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "GET"])
@pytest.mark.parametrize("query", ["", "?limit=0", "?v=x", "?format=msgpack"])
def test_a_head_is_a_get_without_its_body(dev: Server, path: str, query: str) -> None:
    """The same connection goes on: a body that was sent would be taken for the next answer."""
    target = path_of(path) + query
    told = []
    with RestClient(dev.address) as rest:
        for method in ("HEAD", "GET", "HEAD"):
            answer = rest.ask(method, target, origin=ORIGIN, accept=None, content_type=None, x_ably_version=None)
            assert (answer.value is not None) is (method == "GET")
            assert ("content-length" in answer.headers) == (answer.status != 204)
            for changing in ("date", "content-length", "link"):  # the clock, and what is said of it
                answer.headers.pop(changing, None)
            told.append((answer.status, answer.headers))
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [(b'{"error"', JSON, 40001), (b"\x81", MSGPACK, 40001), (b"{}", "image/png", 40001), (b"[]", JSON, 40000)],
)
def test_after_a_refusal_the_connection_goes_on(
    dev: Server, channel: str, body: bytes, kind: str, expected: int
) -> None:
    with RestClient(dev.address) as rest:
        for _ in range(3):
            assert rest.post(channel, body, content_type=kind).refusal == (400, expected)
            assert rest.post(channel, {"data": "x"}).status == 201


def test_missing_credentials_are_told_before_a_body_is_read(dev: Server) -> None:
    for method, path in ROUTES:
        if method == "POST" and is_private(method, path) and "requestToken" not in path:
            with RestClient(dev.address, key=None) as rest:
                assert rest.ask("POST", path_of(path), b"{").refusal == (401, 40101), path


def test_a_form_is_good_for_a_token(dev: Server) -> None:
    body = b"capability=%7B%22a%22%3A%5B%22subscribe%22%5D%7D&ttl=5000&clientId=zo%C3%AB"
    with RestClient(dev.address) as rest:
        kind = "application/x-www-form-urlencoded"
        details = rest.ask("POST", "/keys/app1.key1/requestToken", body, content_type=kind).value
    assert (details["clientId"], details["capability"]) == ("zoë", '{"a":["subscribe"]}')
    assert details["expires"] - details["issued"] == 5000


def test_an_unknown_message_of_an_error_fits_into_a_header(dev: Server) -> None:
    name = "n\u00e9\u6f22" * 300
    status, body, _ = request(dev.address, "GET", "/stats?unit=" + "%E6%BC%A2%0d%0aX-Own:%201" * 20)
    assert (status, body["error"]["code"]) == (400, 40003)
    with RestClient(dev.address) as rest:
        answer = rest.ask("GET", "/stats?unit=%E6%BC%A2%0d%0aX-Own:%201")
        assert answer.refusal == (400, 40003) and "x-own" not in answer.headers
        long = rest.post("room", {"data": "x", "clientId": name, "id": 7})
        assert long.status == 400 and len(long.headers["x-ably-errormessage"]) <= 600


def test_an_error_in_msgpack_is_the_error_in_json(dev: Server) -> None:
    values: list[Any] = []
    for accept in (JSON, MSGPACK):
        with RestClient(dev.address) as rest:
            values.append(rest.ask("GET", "/nothing", accept=accept).value)
    assert values[0] == values[1] == msgpack.unpackb(msgpack.packb(values[0]))
    assert set(values[0]["error"]) == {"code", "statusCode", "message"}
