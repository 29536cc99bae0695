"""Requests that are refused before anybody looks at what they ask for: told in the form that they have asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import msgpack
import pytest
import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

from server.http.bodies import Bodies, room_for_answers
from server.http.serving import serve_http
from tests.test_http import LIMITS, connected, drained, echo, in_virtual_time, refusal_in


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 5001\r\n\r\n", 413),
        (b"HEAD /?a=%ff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"HEAD /" + b"a" * 1990 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    ],
)
def test_a_head_that_is_refused_is_told_so_without_a_body(sent: bytes, status: int) -> None:
    async def main() -> None:
        async with connected(sent) as stream:
            received = await drained(stream)
            assert received.startswith(b"HTTP/1.1 %d " % status)
            assert received.endswith(b"\r\n\r\n") and received.count(b"\r\n\r\n") == 1

    in_virtual_time(main)


@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\n%s\r\nContent-Length: 5001\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\n%s\r\nContent-Length: 500\r\n\r\nthe rest never comes",
        b"POST / HTTP/1.1\r\nHost: a\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
        b"GET /?a=%%ff HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n%s\r\nX: " + b"y" * 1950 + b"\r\n\r\n",
    ],
    ids=["large", "slow", "chunk", "query", "head"],
)
def test_refusal_has_the_format_and_origin_of_the_request(sent: bytes) -> None:
    async def main() -> None:
        fields = b"Accept: application/x-msgpack\r\nOrigin: https://there"
        async with connected(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + sent % fields) as stream:
            _, _, received = (await drained(stream)).partition(b'"body":""}')
        head, _, body = received.partition(b"\r\n\r\n")
        assert b"Content-Type: application/x-msgpack\r\n" in head
        assert b"Access-Control-Allow-Origin: https://there\r\n" in head
        error = msgpack.unpackb(body)["error"]
        assert b"X-Ably-Errorcode: %d\r\n" % error["code"] in head
        assert head.startswith(b"HTTP/1.1 %d " % error["statusCode"])

    in_virtual_time(main)


def test_what_one_request_has_named_does_not_count_for_the_next() -> None:
    async def main() -> None:
        first = b"HEAD / HTTP/1.1\r\nHost: a\r\nAccept: application/x-msgpack\r\nOrigin: https://there\r\n\r\n"
        async with connected(first + b"nonsense\r\n\r\n") as stream:
            received = await drained(stream)
            assert refusal_in(received[received.index(b"\r\n\r\n") + 4 :]) == (400, 40000)

    in_virtual_time(main)


POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


def test_full_body_memory_is_refused_with_retry() -> None:
    async def main() -> None:
        bodies = Bodies(most=5000, free=100)
        async with (
            connected(bodies=bodies) as slow,
            connected(bodies=bodies) as small,
            connected(bodies=bodies) as large,
        ):
            await slow.send_all(POST % 4000 + b"x" * 3999)
            await trio.testing.wait_all_tasks_blocked()
            assert bodies.held == 3899
            for _ in range(2):  # what needs no room is served all the while
                await small.send_all(POST % 100 + b"x" * 100)
                assert b'"body":"xxx' in await small.receive_some(10_000)
            await large.send_all(POST % 1300 + b"x" * 1300)
            received = await drained(large)
            assert refusal_in(received) == (503, 50004)
            assert b"Retry-After: 1\r\n" in received
            assert bodies.held == 3899, "a refused one holds nothing"
            await slow.send_all(b"x")
            assert b'"body":"xxx' in await slow.receive_some(10_000)
            assert bodies.held == 0

    in_virtual_time(main)


@pytest.mark.parametrize("end", ["gone", "deadline", "malformed"])
def test_the_room_of_a_body_that_never_comes_is_free_again(end: str) -> None:
    async def main() -> None:
        bodies = Bodies(most=5000, free=0)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000
        async with connected(head, bodies=bodies) as stream:
            await trio.testing.wait_all_tasks_blocked()
            assert bodies.held == 1000
            if end == "gone":
                await stream.aclose()
                await trio.testing.wait_all_tasks_blocked()
            else:
                if end == "malformed":
                    await stream.send_all(b"no end of a chunk")
                assert refusal_in(await drained(stream)) == (408 if end == "deadline" else 400, 40000)
        assert bodies.held == 0

    in_virtual_time(main)


@asynccontextmanager
async def unread(sent: bytes, answers: Bodies) -> AsyncIterator[tuple[trio.StapledStream, trio.CancelScope]]:
    """A client that has sent this, and takes nothing unless it is read from; and the end of its connection."""
    client, server = lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_http, server, sent, echo, limits=LIMITS, answers=answers))
        await wait_all_tasks_blocked()
        yield client, nursery.cancel_scope
        nursery.cancel_scope.cancel()


def test_answers_share_a_room_and_who_finds_it_full_asks_again() -> None:
    async def main() -> None:
        answers = room_for_answers(most=100_000, free=1000)
        large = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
        async with unread(large, answers) as (slow, _):
            assert answers.held == 99_000
            async with connected(large.replace(b"large", b"small") + large, answers=answers) as other:
                received = await other.receive_some(100_000)  # and goes on
                assert b"/small" in received
                while b"Retry-After: 1\r\n" not in received:
                    received += await other.receive_some(100_000)
                assert b"HTTP/1.1 503 " in received and b"X-Ably-Errorcode: 50004\r\n" in received
            async with connected(b"HEAD" + large[3:], answers=answers) as other:
                assert b"Content-Length: 100000\r\n" in await other.receive_some(100_000), "it takes no room"
            assert answers.held == 99_000
            async with unread(b"POST" + large[3:], answers) as (post, _):
                assert (await post.receive_some(100)).startswith(b"HTTP/1.1 200 "), "what is done is told"
                assert answers.held == 198_000
            received = b""
            while len(received) < 100_000:
                received += await slow.receive_some(100_000)
            await wait_all_tasks_blocked()
            assert answers.held == 0
        async with unread(large, answers):
            await trio.sleep(LIMITS.response_seconds + 0.1)  # or it is let go
            assert answers.held == 0
        async with unread(large, answers) as (_, scope):
            scope.cancel()
        assert answers.held == 0

    in_virtual_time(main)
