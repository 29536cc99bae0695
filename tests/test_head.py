"""The strict reader of publishing requests takes nothing that h11 would not take, and understands it alike."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.net.http_head import parse_post
from server.http.request import path_segments

LINE = "POST /channels/room%3A1/messages HTTP/1.1"
BASIC = "Basic YXBwMS5rZXkxOnNlY3JldA=="
CURL = [
    ("Host", "localhost:8080"),
    ("Authorization", BASIC),
    ("User-Agent", "curl/8.5.0"),
    ("Accept", "*/*"),
    ("content-type", "application/json"),
    ("Content-Length", "36"),
]
JS = [  # ably-js on Node
    ("accept", "application/x-msgpack,application/json"),
    ("content-type", "application/x-msgpack"),
    ("x-ably-version", "3"),
    ("ably-agent", "ably-js/2.9.0 nodejs/20.19.0"),
    ("authorization", "Bearer YXBwMS5h"),
    ("content-length", "57"),
    ("accept-encoding", "gzip, deflate, br"),
    ("Host", "127.0.0.1:8080"),
    ("Connection", "keep-alive"),
]
PYTHON = [  # ably-python, with httpx
    ("Host", "127.0.0.1:8080"),
    ("Accept", "application/x-msgpack"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Connection", "keep-alive"),
    ("User-Agent", "python-httpx/0.28.1"),
    ("X-Ably-Version", "3"),
    ("Ably-Agent", "ably-python/2.1.1 python/3.11.7"),
    ("X-Ably-ClientId", "YWxpY2U="),
    ("Content-Type", "application/x-msgpack"),
    ("Authorization", BASIC),
    ("Content-Length", "57"),
]
FIREFOX = [
    ("Host", "localhost"),
    ("Origin", "http://localhost:3000"),
    ("Accept", "*/*"),
    ("Cookie", "a=b; c=d"),
    ("Content-Type", "application/json"),
    ("Connection", "Keep-Alive"),
    ("Content-Length", "0"),
]
SENT = {"curl": CURL, "js": JS, "python": PYTHON, "firefox": FIREFOX}
LOOKED_AT = {
    "authorization",
    "x-ably-clientid",
    "x-ably-version",
    "accept",
    "content-type",
    "origin",
    "host",
    "content-length",
    "connection",
}


def head(headers, line=LINE):
    return "".join([f"{line}\r\n", *(f"{name}: {value}\r\n" for name, value in headers), "\r\n"]).encode("latin-1")


def judge(request: bytes):
    """h11's view: (target, headers, length of the body), or None: it would not serve it, or not go on after it."""
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(request)
        asked = connection.next_event()
        if not isinstance(asked, h11.Request) or connection.they_are_waiting_for_100_continue:
            return None
        size = int(dict(asked.headers).get(b"content-length", b"0"))
        if size:
            connection.receive_data(b"x" * size)
            body = connection.next_event()
            if not isinstance(body, h11.Data) or len(body.data) != size:
                return None
        if not isinstance(connection.next_event(), h11.EndOfMessage):
            return None
        connection.send(h11.Response(status_code=201, headers=[("Content-Length", "0")]))
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()  # only if both may go on
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        return None
    headers = {name.decode(): value.decode("latin-1") for name, value in asked.headers}
    return asked.method, asked.target.decode(), headers, size


@pytest.mark.parametrize("headers", SENT.values(), ids=SENT.keys())
def test_what_libraries_and_browsers_send_is_taken(headers):
    target, found, length = parse_post(head(headers))
    assert target == "/channels/room%3A1/messages"
    sent = {name.lower(): value for name, value in headers}
    assert found == {name: value for name, value in sent.items() if name in LOOKED_AT}
    assert length == int(sent["content-length"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Transfer-Encoding", "chunked"),
        ("Expect", "100-continue"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Trailer", "X"),
        ("Content-Encoding", "gzip"),
        ("Connection", "close"),
        ("Connection", "keep-alive, Upgrade"),
        ("Content-Length", "36"),
        ("AUTHORIZATION", BASIC),
        ("X-Name", "caf\u00e9"),
        ("X-Name", "a\0b"),
    ],
)
def test_what_is_unusual_about_a_request_is_left_to_the_library(name, value):
    assert parse_post(head([*CURL, (name, value)])) is None


@pytest.mark.parametrize("value", ["", "+1", "-1", "1,1", "0x1", "1 1", "12345678"])
def test_only_a_plain_number_is_a_length(value):
    assert parse_post(head([*CURL[:-1], ("Content-Length", value)])) is None


@pytest.mark.parametrize(
    "line",
    [
        "POST /channels/a/messages?x=1 HTTP/1.1",
        "POST /channels/a/messages/ HTTP/1.1",
        "POST /channels/a/b/messages HTTP/1.1",
        "POST /channels/messages HTTP/1.1",
        "POST /channel/a/messages HTTP/1.1",
        "POST http://here/channels/a/messages HTTP/1.1",
        "POST /channels/a/messages HTTP/1.0",
        "POST  /channels/a/messages HTTP/1.1",
        "POST /channels/a/messages  HTTP/1.1",
        "post /channels/a/messages HTTP/1.1",
        "GET /channels/a/messages HTTP/1.1",
        "POST /channels/a/history HTTP/1.1",
    ],
)
def test_another_target_or_line_is_left_to_the_library(line):
    assert parse_post(head(CURL, line)) is None


@pytest.mark.parametrize("headers", [[*CURL, ("Expect", "100-continue")], [*CURL, ("Connection", "close")], CURL[1:]])
def test_the_judge_can_say_no(headers):
    assert judge(head(headers)) is None


NAMES = st.sampled_from(
    [name for name, _ in CURL + JS + PYTHON + FIREFOX]
    + ["Transfer-Encoding", "Expect", "Upgrade", "TE", "Trailer", "X", "CONTENT-LENGTH", "x-ably-clientid"]
)
VALUES = st.sampled_from(["", "0", "3", "007", "3,3", " 3 ", "chunked", "close", "keep-alive", "100-continue", "h2c"])
ODD_VALUES = st.sampled_from(["a b", "\t x ", "\u00e9", "x\x01", "x\x0b", "a\tb", "keep-alive, close"])
LINES = st.sampled_from(
    [
        LINE,
        "POST /channels/a/messages HTTP/1.0",
        "POST /channels/[?x=1]a/messages HTTP/1.1",
        "POST /channels/a#b/messages HTTP/1.1",
        "POST /channels//messages HTTP/1.1",
        "POST /channels/%zz/messages HTTP/1.1",
        "POST /channels/a//messages HTTP/1.1",
    ]
)
MUTATION = st.one_of(
    st.tuples(st.just("drop"), st.integers(0, 11)),
    st.tuples(st.just("repeat"), st.integers(0, 11)),
    st.tuples(st.just("change"), st.integers(0, 11), VALUES | ODD_VALUES),
    st.tuples(st.just("add"), NAMES, VALUES | ODD_VALUES),
    st.tuples(st.just("line"), LINES),
    st.tuples(st.just("byte"), st.integers(0, 400), st.integers(0, 255)),
    st.tuples(st.just("insert"), st.integers(0, 400), st.binary(min_size=1, max_size=3)),
    st.tuples(st.just("cut"), st.integers(0, 400)),
)


def mutate(headers, mutations):
    headers, line = list(headers), LINE
    later = []
    for kind, *what in mutations:
        if kind == "drop" and headers:
            del headers[what[0] % len(headers)]
        elif kind == "repeat" and headers:
            headers.append(headers[what[0] % len(headers)])
        elif kind == "change" and headers:
            headers[what[0] % len(headers)] = (headers[what[0] % len(headers)][0], what[1])
        elif kind == "add":
            headers.append((what[0], what[1]))
        elif kind == "line":
            line = what[0]
        else:
            later.append((kind, *what))
    request = bytearray(head(headers, line))
    for kind, at, *what in later:
        if kind == "byte" and at < len(request):
            request[at] = what[0]
        elif kind == "insert":
            request[at:at] = what[0]
        elif kind == "cut":
            del request[at : at + 1]
    return bytes(request)


@settings(max_examples=800, deadline=None)
@given(headers=st.sampled_from(list(SENT.values())), mutations=st.lists(MUTATION, max_size=4))
def test_what_is_taken_is_what_h11_takes(headers, mutations):
    request = mutate(headers, mutations)
    taken = parse_post(request)
    if taken is None:
        return
    target, found, length = taken
    judged = judge(request)
    assert judged is not None, request
    assert judged[0] == b"POST"
    assert judged[1] == target
    assert {name: value for name, value in judged[2].items() if name in LOOKED_AT} == found
    assert judged[3] == length
    segments = target.split("/")
    assert (segments[1], segments[3]) == ("channels", "messages") and len(segments) == 4
    assert "?" not in target and len(path_segments(target.replace("%", "x"))) == 3
