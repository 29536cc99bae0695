"""The REST interface, route by route, as client libraries use it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

import pytest
import trio
from trio.testing import MockClock

from engine.errors import BadRequest, LimitExceeded
from engine.journal.port import Stored
from engine.limits import PAGES_AT_ONCE
from server.http.request import HttpRequest, parse_target
from server.rest.api import TOKEN_REQUEST_BYTES
from tests.rest_server import JSON, MSGPACK, NOW, Server, b64, code_of, header, value_of


@pytest.fixture
def server() -> Server:
    return Server()


# history, time, tokens, health


def test_pages_for_a_crowd_are_made_a_few_at_a_time(server: Server) -> None:
    """What has been read for a page is held until it is whole: all of theirs together would be a flood."""
    server.publish([{"data": "x"}])
    reading, most = 0, 0
    read = server.backend.read_before

    async def slow_read(*arguments: Any, **bounds: int) -> list[Stored]:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await trio.sleep(1)
        reading -= 1
        return await read(*arguments, **bounds)

    server.backend.read_before = slow_read  # type: ignore[method-assign]
    request = HttpRequest("GET", "/channels/room:1/messages", {}, {"authorization": "Bearer root"}, b"", False, "peer")
    answers = []

    async def ask() -> None:
        answers.append(await server.rest(request))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3 * PAGES_AT_ONCE):
                nursery.start_soon(ask)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert most == PAGES_AT_ONCE
    assert [len(value_of(answer)) for answer in answers] == [1] * 3 * PAGES_AT_ONCE


def test_history_needs_its_operation_and_may_be_an_empty_array(server: Server) -> None:
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


HOSTILE = "a +b,c;d>&=/%é"


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/channels", "prefix"),
        ("/channels/room:1/messages", "format"),
        ("/channels/room:1/history", "v"),
        ("/stats", "format"),
    ],
)
def test_link_passes_any_parameter_through_library_parsers(server: Server, path: str, parameter: str) -> None:
    """Links are split at commas, their parameters decoded by rules to which a plus is no space (ably-js)."""
    given = "6" if parameter == "v" else HOSTILE
    response = server.ask("GET", f"{path}?{parameter}={quote(given, safe='')}&limit=2")
    assert response.status == 200
    links = [value.partition("; rel=")[0] for name, value in response.headers if name == "Link"]
    assert len(links) == 2
    for link in links:
        resource, query = re.fullmatch(r"<\./(\w+)\?([^,;>+<]*)>", link).groups()  # type: ignore[union-attr]
        assert resource == path.rpartition("/")[2]
        fields = dict(field.split("=") for field in query.split("&"))
        assert (unquote(fields[parameter]), fields["limit"]) == (given, "2")


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
    assert header(response, "cache-control") == "no-store", "it is a secret"
    server.ask("POST", "/keys/app1.key1/requestToken?key=app1.key1:secret", who=None)
    basic = f"Basic {b64('app1.key1:secret')}"
    assert server.backend.token_requests == [("app1.key1", {"ttl": None}, None), ("app1.key1", {}, basic)]
    for name in ("access_token", "accessToken"):
        server.ask("POST", f"/keys/app1.key1/requestToken?{name}=t", who=None)
        assert server.backend.token_requests.pop()[2] == "Bearer t"
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
    for target in ("/", "/?envelope=json"):
        response = server.ask("GET", target, who=None, origin="https://a")
        assert response.status == 200 and b"Unbroken" in response.body
        assert header(response, "access-control-allow-origin") == "https://a"
        assert header(response, "content-type") == "text/plain"


# routes, formats, versions, envelopes, browsers


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/nothing"),
        ("POST", "/"),
        ("GET", "/messages"),
        ("GET", "/channels/room:1/messages/"),
        ("GET", "/channels/room:1/members"),
        ("GET", "/push/channels"),
        ("GET", "/channels/room:1/objects"),
        ("GET", "/channels/room:1/messages/01700000000123-000@n1:000/client-summary"),
        ("GET", "/channels/objects/members"),
        ("POST", "/apps"),
        ("DELETE", "/apps/app1"),
        ("GET", "//time"),
        ("GET", "*"),
    ],
)
def test_an_unknown_route_is_not_found(server: Server, method: str, target: str) -> None:
    assert code_of(server.ask(method, target)) == (404, 40400)
    assert header(server.ask(method, target, accept=MSGPACK), "content-type") == MSGPACK
    later = b"not available on this server" in server.ask(method, target).body
    assert later == (target.startswith("/push") or target.endswith(("/objects", "/client-summary")))


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://here:80/a/b?c=d", "/a/b", {"c": "d"}),
        ("HTTP://here?c=d", "/", {"c": "d"}),
        ("http://here", "/", {}),
        ("/a://b/c?d=e://f", "/a://b/c", {"d": "e://f"}),
        ("/a?b=1&b=2&c&d=+%2B", "/a", {"b": "2", "c": "", "d": " +"}),
    ],
)
def test_a_target_may_name_its_host(target: str, path: str, query: dict[str, str]) -> None:
    assert parse_target(target) == (path, query)


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("PUT", "/channels/room:1/messages", "GET, POST, HEAD, OPTIONS"),
        ("POST", "/time", "GET, HEAD, OPTIONS"),
        ("DELETE", "/messages", "POST, OPTIONS"),
        ("BREW", "/keys/a.b/requestToken", "POST, OPTIONS"),
        ("DELETE", "/channels", "GET, HEAD, OPTIONS"),
    ],
)
def test_unsupported_method_is_told_the_allowed_ones(server: Server, method: str, target: str, allow: str) -> None:
    response = server.ask(method, target)
    assert (*code_of(response), header(response, "allow")) == (405, 40500, allow)


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


def test_who_is_to_come_back_later_is_told_when(server: Server) -> None:
    for error, expected in (
        (LimitExceeded("x", retry_after_ms=1001), "2"),
        (LimitExceeded("x", retry_after_ms=1000, code=50004, status=503), "1"),
        (LimitExceeded("nobody knows when"), "1"),
        (LimitExceeded("never", code=40009, status=400), None),
    ):
        server.backend.refuses = error
        response = server.ask("POST", "/channels/room:1/messages", {"data": "x"})
        assert (response.status, header(response, "retry-after")) == (error.status, expected)


# development mode


def test_apps_can_be_made_and_deleted_in_development_mode() -> None:
    server = Server(dev=True)
    response = server.ask("POST", "/apps", {"keys": [{}]}, who=None)
    assert (response.status, value_of(response)) == (201, {"appId": "new", "keys": [{}]})
    assert server.ask("POST", "/apps", who=None).status == 201
    assert code_of(server.ask("POST", "/apps", [], who=None)) == (400, 40000)
    assert code_of(server.ask("DELETE", "/apps/app1")) == (401, 40162)
    both = server.ask("DELETE", "/apps/app1?access_token=root", who=None, authorization="Basic eve")
    assert code_of(both) == (401, 40101)
    assert code_of(server.ask("DELETE", "/apps/other", who=None, authorization="Basic root")) == (401, 40101)
    assert server.backend.deleted == []
    response = server.ask("DELETE", "/apps/app1", who=None, authorization="Basic root")
    assert (response.status, response.body, header(response, "content-type")) == (204, b"", None)
    assert server.backend.deleted == ["app1"]


def test_a_bug_is_not_hidden_as_an_answer(server: Server) -> None:
    server.backend.refuses = ZeroDivisionError("planted")
    with pytest.raises(ZeroDivisionError):
        server.ask("POST", "/channels/room:1/messages", {"data": "x"})
