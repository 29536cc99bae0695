"""What a peer may do wrong on a WebSocket, and what it may send together with its request: the same answers over plain
connections and TLS, in JSON and msgpack, whether it comes with the request or later."""

from __future__ import annotations

import pytest

from tests.harness import wait_until
from tests.peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame, message, upgrade
from tests.wsclient import Served

LARGE = 512 * 1024  # maxFrameSize
HELLO = ["101", "CONNECTED"]
BROKEN = ["ERROR 80013/400", "close 1002"]
BAD_TEXT = ["ERROR 80013/400", "close 1007"]
TOO_LARGE = ["ERROR 40009/400", "close 1009"]
NO_MESSAGE = ["ERROR 80013/400", "close 1000"]  # the frame is right, what is in it is not

VIOLATIONS = {
    "a reserved bit": (frame(TEXT, b"{}", reserved=4), BROKEN),
    "another reserved bit": (frame(PING, reserved=1), BROKEN),
    "an opcode that is none": (frame(3, b"{}"), BROKEN),
    "a control opcode that is none": (frame(11), BROKEN),
    "no mask": (frame(TEXT, b"{}", masked=False), BROKEN),
    "a control frame in fragments": (frame(PING, b"x", fin=False), BROKEN),
    "a control frame that is too long": (frame(PING, b"x" * 126), BROKEN),
    "a length that is longer than it must be": (b"\x81\xfe\0\5" + bytes(4) + b"12345", BROKEN),
    "a length of 64 bits with the first one set": (b"\x81\xff" + b"\x80" + bytes(7) + bytes(4), BROKEN),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), BROKEN),
    "a message within the fragments of another": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"{}"), BROKEN),
    "a text that is no UTF-8": (frame(TEXT, b"\xff\xfe"), BAD_TEXT),
    "a text in fragments that is no UTF-8": (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"("), BAD_TEXT),
    "a close frame with half a code": (frame(CLOSE, b"\3"), BROKEN),
    "a close frame with a code that is never sent": (frame(CLOSE, (1005).to_bytes(2, "big")), BROKEN),
    "a close frame with a code that is none": (frame(CLOSE, (999).to_bytes(2, "big")), BROKEN),
    "a close frame whose reason is no UTF-8": (frame(CLOSE, b"\3\xe8\xff"), BAD_TEXT),
    "a frame that is too large": (frame(TEXT, bytes(LARGE + 1))[:64], TOO_LARGE),
    "fragments that are too large together": (
        frame(TEXT, b" " * LARGE, fin=False) + frame(CONTINUATION, b"  "),
        TOO_LARGE,
    ),
    "a text that is no JSON": (frame(TEXT, b"{"), NO_MESSAGE),
    "no text at all": (frame(TEXT), NO_MESSAGE),
    "JSON that is no map": (frame(TEXT, b"[]"), NO_MESSAGE),
    "binary that is no msgpack": (frame(BINARY, b"\xc1"), NO_MESSAGE),
    "half of msgpack": (frame(BINARY, b"\x81\xa6act"), NO_MESSAGE),
    "msgpack that is no map": (frame(BINARY, b"\x93\1\2\3"), NO_MESSAGE),
    "an action that is none": (message({"action": "attach"}), NO_MESSAGE),
}


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("when", ["with the request", "later"])
@pytest.mark.parametrize(("sent", "told"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_what_is_wrong_is_told_and_ends_the_connection(
    served: Served, format: str, when: str, sent: bytes, told: list[str]
) -> None:
    with served.peer() as peer:
        if when == "later":
            peer.send(upgrade(format))
            assert peer.told(2) == HELLO
            peer.send(sent)
            assert peer.told() == told
        else:
            peer.send(upgrade(format) + sent)
            assert peer.told() == HELLO + told


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_what_came_before_a_violation_is_dealt_with(served: Served, channel: str, format: str) -> None:
    publish = {"action": 15, "channel": channel, "msgSerial": 0, "messages": [{"data": "x"}]}
    with served.peer() as peer:
        peer.send(upgrade(format) + message({"action": 0, "id": "a"}, format) + message(publish, format) + frame(3))
        assert peer.told() == [*HELLO, "HEARTBEAT a", *BROKEN]
    wait_until(lambda: len(served.history(channel)) == 1, what="the message")


@pytest.mark.parametrize("when", ["with the request", "later"])
@pytest.mark.parametrize(("format", "other"), [("json", "msgpack"), ("msgpack", "json")])
def test_frame_format_is_its_own_and_answers_follow_connection(
    served: Served, when: str, format: str, other: str
) -> None:
    asked = message({"action": 0, "id": "a"}, other) + message({"action": 0, "id": "b"}, format)
    with served.peer() as peer:
        if when == "later":
            peer.send(upgrade(format))
            assert peer.told(2) == HELLO
            peer.send(asked)
        else:
            peer.send(upgrade(format) + asked)
            assert peer.told(2) == HELLO
        assert peer.told(2) == ["HEARTBEAT a", "HEARTBEAT b"]
        assert peer.formats == {format}


HEARTBEATS = [f"HEARTBEAT {n}" for n in range(300)]
TOGETHER = {
    "one frame": ([{"action": 0, "id": "x"}], b"", ["HEARTBEAT x"]),
    "two frames": ([{"action": 0, "id": "x"}, {"action": 7}], b"", ["HEARTBEAT x", "CLOSED", "close 1000"]),
    "many frames": ([{"action": 0, "id": str(n)} for n in range(300)], b"", HEARTBEATS),
    "a ping": ([], frame(PING, b"x"), ["pong x"]),
    "a pong": ([], frame(PONG, b"x") + frame(PING, b"y"), ["pong y"]),
    "a ping within fragments": (
        [],
        frame(TEXT, b'{"action":0,', fin=False) + frame(PING, b"x") + frame(CONTINUATION, b'"id":"y"}'),
        ["pong x", "HEARTBEAT y"],
    ),
    "a close frame": ([], frame(CLOSE, (1000).to_bytes(2, "big")), ["close 1000"]),
    "a close frame with another code": ([], frame(CLOSE, (4000).to_bytes(2, "big") + b"why"), ["close 4000"]),
    "a close frame without a code": ([], frame(CLOSE), ["close 1000"]),
    "a close frame, and what nobody reads": ([], frame(CLOSE) + b"\xff" * 100, ["close 1000"]),
}


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize(("messages", "raw", "told"), TOGETHER.values(), ids=TOGETHER.keys())
def test_input_in_one_read_with_the_request_is_answered_later(
    served: Served, format: str, messages: list[dict[str, object]], raw: bytes, told: list[str]
) -> None:
    with served.peer() as peer:
        peer.send(upgrade(format) + b"".join(message(each, format) for each in messages) + raw)
        assert peer.told(2 + len(told)) == HELLO + told
        if told[-1].startswith("close"):
            assert peer.hears_end()


@pytest.mark.parametrize("more", ["", "X-More: 1\r\nX-More: 2\r\n"], ids=["usual", "unusual"])
@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_frame_begun_with_the_request_is_completed_later(served: Served, more: str, cut: int) -> None:
    """Also where the library for WebSockets is asked about the request."""
    whole = message({"action": 0, "id": "begun with the request"}) + frame(PING, b"behind")
    with served.peer() as peer:
        peer.send(upgrade(more=more) + whole[:cut])
        assert peer.told(2) == HELLO
        peer.send(whole[cut:])
        assert sorted(peer.told(2)) == ["HEARTBEAT begun with the request", "pong behind"]


@pytest.mark.parametrize("before", [b"", b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "second"])
@pytest.mark.parametrize("more", ["", "X-More: 1\r\nX-More: 2\r\n"], ids=["usual", "unusual"])
def test_close_frame_behind_the_request_still_gets_its_101(served: Served, more: str, before: bytes) -> None:
    with served.peer() as peer:
        peer.send(before + upgrade(more=more) + frame(PING, b"x") + frame(CLOSE))
        if before:
            assert peer.answer()[0] == 200
        assert peer.told() == [*HELLO, "pong x", "close 1000"]


def test_refused_client_is_told_whatever_follows_its_request(served: Served) -> None:
    for behind in (b"", message({"action": 0}), frame(3), frame(CLOSE), frame(PING), b"\xff"):
        with served.peer() as peer:
            peer.send(upgrade(key="app1.key1:wrong") + behind)
            assert peer.told() == ["101", "ERROR 40101/401", "close 1000"]
