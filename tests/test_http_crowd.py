"""The port under a crowd of peers that behave badly over HTTP: bounded, and nobody else notices."""

from __future__ import annotations

import base64
import os
import resource
import select
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.limits import BODIES_BYTES, BODY_FREE_BYTES
from tests.harness import KEY, Server, channel_path, history, publish, rss, wait_until
from tests.peer import Peer

MIB = 1 << 20
BASIC = b"Authorization: Basic " + base64.b64encode(KEY.encode()) + b"\r\n"
JSON = b"Content-Type: application/json\r\n"


def refused(one: Peer) -> bool:
    """Has it been told that there is no room?"""
    readable, _, _ = select.select([one.socket], [], [], 0)
    return bool(readable) and one.refusal()[1] == 50004


def test_slow_senders_of_large_bodies_stay_within_their_bound(make_server: Callable[..., Server], channel: str) -> None:
    server = make_server()
    publish(server.address, channel, {"data": "first"})
    before = rss(server.pid)
    size = 2 * MIB - 1
    crowd = []
    for number in range(90):
        one = Peer(server.address)
        crowd.append(one)
        head = b"POST /keys/a.b/requestToken HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        one.send(head % size + b" " * (size - 1))
        if number % 10 == 0:  # nobody else notices
            publish(server.address, channel, {"data": "small"})
            publish(server.address, channel, [{"data": "x" * 600}] * 100)
    told: set[Peer] = set()

    def enough_refused() -> bool:
        told.update(one for one in crowd if one not in told and refused(one))
        return len(crowd) - len(told) <= BODIES_BYTES // (size - BODY_FREE_BYTES) + 1

    wait_until(enough_refused, what="the refusal of those that do not fit")
    assert len(crowd) - len(told) >= BODIES_BYTES // size - 1
    assert rss(server.pid) - before < BODIES_BYTES * 1.5
    waiting = next(one for one in crowd if one not in told)
    waiting.send(b" ")
    assert waiting.refusal()[0] == 413, "whole now, and judged"
    for one in crowd:
        one.close()
    assert len(history(server.address, channel)) == 1 + 9 * 101


def test_silent_connections_keep_nobody_out(make_server: Callable[..., Server], channel: str) -> None:
    server = make_server()
    crowd = [Peer(server.address) for _ in range(300)]
    for one in crowd[::2]:
        one.send(b"GET / HTTP/1.1\r\n")
    began = time.monotonic()
    publish(server.address, channel, {"data": "x"})
    assert time.monotonic() - began < 5, "they may be silent for ten seconds"
    for one in crowd:
        one.close()


FEW = 600


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))


@pytest.mark.parametrize("desk", [False, True], ids=["by tasks", "usual"])
def test_idle_connections_do_not_take_the_last_descriptors(tmp_path: Path, desk: bool) -> None:
    """Those are the journal's. Who is idle makes room for newcomers."""
    with Server(tmp_path, before_exec=few_descriptors) as server:
        crowd = []
        for _ in range(FEW):
            one = Peer(server.address)
            request = PUBLISH % b"/channels/crowd/messages" + b"Content-Length: 12\r\n\r\n" + BODY
            one.send(request if desk else b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n")
            crowd.append(one)
        assert len(os.listdir(f"/proc/{server.pid}/fd")) < FEW * 0.8

        def stored() -> bool:
            try:
                publish(server.address, "room", {"data": "x"})
            except OSError:  # turned away, while all of them have been there for less than a second
                return False
            return True

        wait_until(stored, what="room for somebody else")
        for one in crowd:
            one.close()
        assert not server.complaints(), server.complaints()


PUBLISH = b"POST %s HTTP/1.1\r\nHost: x\r\n" + BASIC + JSON
BODY = b'{"data":"x"}'
WAYS: dict[str, tuple[list[bytes], int]] = {  # pieces; how many are stored
    "keep-alive": ([PUBLISH + b"Content-Length: 12\r\n\r\n" + BODY] * 3, 3),
    "pipelining": ([(PUBLISH + b"Content-Length: 12\r\n\r\n" + BODY) * 5], 5),
    "chunks": ([PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\n" + BODY[:5] + b"\r\n",
                b"7\r\n" + BODY[5:] + b"\r\n0\r\n\r\n"], 1),
    "expect": ([PUBLISH + b"Expect: 100-continue\r\nContent-Length: 12\r\n\r\n", BODY], 1),
    "byte by byte": ([bytes([b]) for b in b"Content-Length: 12\r\n\r\n" + BODY], 1),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_publish_is_stored_however_it_is_sent(server: Server, channel: str, way: str) -> None:
    pieces, count = WAYS[way]
    path = channel_path(channel).encode()
    if way == "byte by byte":
        pieces = [PUBLISH, *pieces]
    with Peer(server.address) as one:
        answers = []
        for piece in pieces:
            one.send(piece.replace(b"%s", path))
            if way == "keep-alive":
                answers.append(one.answer())
            elif way == "expect" and piece is not BODY:
                assert one.head()[0] == 100
        answers += [one.answer() for _ in range(count - len(answers))]
    assert [(status, b'"serials"' in body) for status, _, body in answers] == [(201, True)] * count
    assert len(history(server.address, channel)) == count


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"Content-Length: 99999999999999999999\r\n\r\n", 413),
        (b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (b"Content-Length: -1\r\n\r\n", 400),
        (b"Content-Length: 1e3\r\n\r\n", 400),
        (b"Content-Length: 12\r\nContent-Length: 13\r\n\r\n", 400),
        (b"Content-Length: 12\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 100 + b"\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n" + b"x" * (3 * MIB), 413),
        (b"X-Header: y\r\n" * 5000 + b"\r\n", 431),
        (b"X-Header: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (b"Expect: 100-continue\r\nContent-Length: 3000000\r\n\r\n", 413),
    ],
)
def test_absurd_numbers_and_heads_are_refused_and_store_nothing(
    server: Server, channel: str, sent: bytes, status: int
) -> None:
    before = rss(server.pid)
    head = b"POST " + channel_path(channel).encode() + b" HTTP/1.1\r\nHost: x\r\n" + BASIC + JSON
    for first in (b"", head + b"Content-Length: 12\r\n\r\n" + BODY):  # also behind a good one
        with Peer(server.address) as one:
            one.send(first + head + sent + BODY)
            if first:
                assert one.answer()[0] == 201
            told, headers, body = one.answer()
            assert (told, headers["connection"], b'"error"' in body) == (status, "close", True)
    assert rss(server.pid) - before < 20 * MIB
    assert len(history(server.address, channel)) == 1
