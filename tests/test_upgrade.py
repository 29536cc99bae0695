"""The strict reader of upgrade requests takes nothing that wsproto would not take, and understands it alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request
from wsproto.utilities import ProtocolError

from ext.net.ws_upgrade import parse_upgrade

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
USUAL = [
    ("Host", "localhost:8080"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
    ("Authorization", "Bearer abc"),
]
NODE = [
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
    ("Host", "127.0.0.1:8080"),
]
FIREFOX = [
    ("Host", "localhost"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)"),
    ("Accept", "*/*"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Sec-WebSocket-Version", "13"),
    ("Origin", "http://localhost:3000"),
    ("Sec-WebSocket-Extensions", "permessage-deflate"),
    ("Sec-WebSocket-Key", KEY),
    ("Connection", "keep-alive, Upgrade"),
    ("Cookie", "a=b; c=d"),
    ("Pragma", "no-cache"),
    ("Upgrade", "WebSocket"),
]


def head(headers, line="GET /?key=a.b:c&v=6 HTTP/1.1"):
    return "".join([f"{line}\r\n", *(f"{name}: {value}\r\n" for name, value in headers), "\r\n"]).encode("latin-1")


def judge(request: bytes):
    """wsproto's view: (target, headers that it passes on, its answer's Sec-WebSocket-Accept), or None."""
    connection = WSConnection(ConnectionType.SERVER)
    try:
        connection.receive_data(request)
        events = list(connection.events())
        if len(events) != 1 or not isinstance(events[0], Request):
            return None
        asked = events[0]
        answer = connection.send(AcceptConnection())
    except ProtocolError:
        return None
    status, *lines = answer.split(b"\r\n")
    assert status.startswith(b"HTTP/1.1 101")
    answered = {line.split(b":", 1)[0].strip().lower(): line.split(b":", 1)[1].strip() for line in lines if line}
    passed_on = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in asked.extra_headers}
    return asked.target, passed_on, answered


@pytest.mark.parametrize("headers", [USUAL, NODE, FIREFOX], ids=["usual", "node", "firefox"])
def test_what_libraries_and_browsers_send_is_taken(headers):
    taken = parse_upgrade(head(headers))
    assert taken is not None
    assert taken.target == "/?key=a.b:c&v=6"
    assert taken.headers == {name.lower(): value for name, value in headers}
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in taken.answer  # RFC 6455, section 1.3
    assert b"extensions" not in taken.answer.lower()


NAMES = st.sampled_from([name for name, _ in USUAL + FIREFOX] + ["Content-Length", "Transfer-Encoding", "X", "Expect"])
VALUES = st.sampled_from(
    [
        "",
        "websocket",
        "h2c",
        "upgrade",
        "close, upgrade",
        "13",
        "8",
        KEY,
        KEY[:-1],
        "A" * 22 + "==",
        "0",
        "3",
        "chunked",
    ]
)
ODD_VALUES = st.sampled_from(["100-continue", "a b", "\t x ", "é", "x\x01"])
MUTATION = st.one_of(
    st.tuples(st.just("drop"), st.integers(0, 11)),
    st.tuples(st.just("repeat"), st.integers(0, 11)),
    st.tuples(st.just("change"), st.integers(0, 11), VALUES | ODD_VALUES),
    st.tuples(st.just("add"), NAMES, VALUES | ODD_VALUES),
    st.tuples(
        st.just("line"), st.sampled_from(["POST / HTTP/1.1", "GET / HTTP/1.0", "GET  / HTTP/1.1", "GET /é HTTP/1.1"])
    ),
    st.tuples(st.just("byte"), st.integers(0, 400), st.integers(0, 255)),
    st.tuples(st.just("insert"), st.integers(0, 400), st.binary(min_size=1, max_size=3)),
    st.tuples(st.just("cut"), st.integers(0, 400)),
)


def mutate(headers, mutations):
    headers, line = list(headers), "GET /?v=6 HTTP/1.1"
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


@given(headers=st.sampled_from([USUAL, NODE, FIREFOX]), mutations=st.lists(MUTATION, max_size=4))
def test_what_is_taken_is_what_wsproto_takes(headers, mutations):
    request = mutate(headers, mutations)
    taken = parse_upgrade(request)
    if taken is None:
        return
    judged = judge(request)
    assert judged is not None, request
    target, passed_on, answered = judged
    assert taken.target == target
    assert passed_on.items() <= taken.headers.items()
    ours = dict(line.split(b": ", 1) for line in taken.answer.split(b"\r\n")[1:] if line)
    assert {name.lower(): value.lower() for name, value in ours.items()} == {
        name: value.lower() for name, value in answered.items()
    }


@pytest.mark.parametrize(
    "headers",
    [
        [*USUAL, ("Content-Length", "0")],
        [*USUAL, ("Sec-WebSocket-Protocol", "mqtt")],
        [*USUAL, ("Host", "again")],
        [*USUAL, ("X-Latin", "é")],
        [(name, value) for name, value in USUAL if name != "Host"],
    ],
    ids=["body", "subprotocol", "twice", "latin", "no host"],
)
def test_what_is_not_usual_is_left_to_the_library(headers):
    assert parse_upgrade(head(headers)) is None


@pytest.mark.parametrize("size", range(len(head(USUAL))))
def test_a_part_of_a_request_is_none(size):
    assert parse_upgrade(head(USUAL)[:size]) is None
