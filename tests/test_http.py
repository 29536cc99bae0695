"""HTTP on one connection: what is valid is served, what is not is refused and bounded, and bugs stay where they are.

The client is h11's own, or plain bytes where a proper client would not send such."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import h11
import orjson
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from server.http.bodies import Bodies
from server.http.request import HttpRequest, Response
from server.http.serving import READ_BYTES, HttpLimits, IdleConnections, serve_http

LIMITS = HttpLimits(head_bytes=2000, body_bytes=5000, idle_seconds=60, request_seconds=20, response_seconds=10)
Stream = trio.StapledStream


async def echo(request: HttpRequest) -> Response:
    """What came in, told; /bug, /badheader, /empty and /large do as they are called."""
    if request.path == "/bug":
        raise RuntimeError("planted")
    if request.path == "/badheader":
        return Response(200, [("X-Broken", "a\r\nb: c")], b"")
    if request.path == "/empty":
        return Response(204, [], b"")
    if request.path == "/large":
        return Response(200, [], b"x" * 100_000)
    told = {"method": request.method, "path": request.path, "query": dict(request.query), "body": request.body.decode()}
    headers = [("Content-Type", "application/json"), ("X-Seen", request.headers.get("x-say", ""))]
    return Response(200, headers, orjson.dumps(told))


@asynccontextmanager
async def connected(
    initial: bytes = b"",
    idle: IdleConnections | None = None,
    bodies: Bodies | None = None,
    waited_seconds: float = 0.0,
    answers: Bodies | None = None,
) -> AsyncIterator[Stream]:
    """A client's end of a connection that is being served; at the end the server has closed."""
    client, server = memory_stream_pair()

    async def serve() -> None:
        rooms = {"bodies": bodies, "answers": answers}
        await serve_http(server, initial, echo, limits=LIMITS, idle=idle, waited_seconds=waited_seconds, **rooms)
        await server.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield client
        await client.aclose()


async def drained(client: Stream) -> bytes:
    received = b""
    while data := await client.receive_some(65536):
        received += data
    return received


class H11Client:
    """h11's client on a stream: the responses to requests sent in one go or one by one."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def event(self) -> object:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.stream.receive_some(4096))
        return event

    async def response(self) -> tuple[h11.Response, bytes]:
        head = await self.event()
        assert isinstance(head, h11.Response), head
        body = b""
        while isinstance(event := await self.event(), h11.Data):
            body += event.data
        return head, body

    async def request(self, method: str, target: str, body: bytes = b"", **headers: str) -> tuple[h11.Response, bytes]:
        if self.http.our_state is h11.DONE:
            self.http.start_next_cycle()
        fields = [("Host", "here"), *((name.replace("_", "-"), value) for name, value in headers.items())]
        if body:
            fields.append(("Content-Length", str(len(body))))
        events: list[h11.Event] = [h11.Request(method=method, target=target, headers=fields)]
        if body:
            events.append(h11.Data(body))
        events.append(h11.EndOfMessage())
        await self.stream.send_all(b"".join(self.http.send(event) or b"" for event in events))
        return await self.response()


def refusal_in(received: bytes) -> tuple[int, int]:
    """Status and code of the one response in it, which must be JSON, and say that the connection ends."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="GET", target="/", headers=[("Host", "here")]))
    http.send(h11.EndOfMessage())
    http.receive_data(received)
    http.receive_data(b"")
    head = http.next_event()
    assert isinstance(head, h11.Response)
    headers = dict(head.headers)
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"connection"] == b"close"
    assert headers[b"access-control-allow-origin"] == b"*"
    body = b""
    while isinstance(event := http.next_event(), h11.Data):
        body += event.data
    error = orjson.loads(body)["error"]
    assert error["statusCode"] == head.status_code
    assert headers[b"x-ably-errorcode"] == str(error["code"]).encode()
    assert isinstance(error["message"], str)
    assert not http.trailing_data[0]
    return head.status_code, error["code"]


def in_virtual_time(function: Callable[[], Awaitable[None]]) -> None:
    """Time begins at 0, and jumps to the next deadline when nobody can go on."""
    trio.run(function, clock=MockClock(autojump_threshold=0))


def test_connection_is_kept_alive_for_several_requests() -> None:
    async def main() -> None:
        async with connected() as stream:
            client = H11Client(stream)
            for n in range(5):
                head, body = await client.request("POST", f"/a%2Fb?x=1&x={n}&e=", b"hello", X_Say="me")
                assert head.status_code == 200
                assert dict(head.headers)[b"x-seen"] == b"me"
                assert b"date" in dict(head.headers)
                expected = {"method": "POST", "path": "/a%2Fb", "query": {"x": str(n), "e": ""}, "body": "hello"}
                assert orjson.loads(body) == expected

    in_virtual_time(main)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_pipelined_requests_in_any_pieces_are_answered_in_order(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(["get", "post", "chunked"]), min_size=1, max_size=5))
    sent = b""
    for n, kind in enumerate(kinds):
        if kind == "get":
            sent += b"GET /%d HTTP/1.1\r\nHost: here\r\n\r\n" % n
        elif kind == "post":
            sent += b"POST /%d HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\nhello" % n
        else:
            sent += b"POST /%d HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n" % n
            sent += b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    pieces = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]

    async def main() -> None:
        async with connected(pieces[0]) as stream:
            for piece in pieces[1:]:
                await stream.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            client = H11Client(stream)
            for n, kind in enumerate(kinds):
                client.http.send(h11.Request(method="GET", target="/", headers=[("Host", "here")]))
                client.http.send(h11.EndOfMessage())
                _, body = await client.response()
                told = orjson.loads(body)
                assert (told["path"], told["body"]) == (f"/{n}", "" if kind == "get" else "hello")
                client.http.start_next_cycle()

    in_virtual_time(main)


def test_head_request_gets_the_length_without_the_body() -> None:
    async def main() -> None:
        async with connected() as stream:
            client = H11Client(stream)
            head, body = await client.request("HEAD", "/x")
            length = int(dict(head.headers)[b"content-length"])
            assert length > 0 and body == b""
            head, body = await client.request("GET", "/xxx")
            assert len(body) == length + 1  # GET is a letter shorter than HEAD, and the path two longer

    in_virtual_time(main)


def test_no_content_has_no_length() -> None:
    async def main() -> None:
        async with connected() as stream:
            client = H11Client(stream)
            for _ in range(2):
                head, body = await client.request("DELETE", "/empty")
                assert (head.status_code, body) == (204, b"")
                assert b"content-length" not in dict(head.headers)

    in_virtual_time(main)


def test_a_client_that_waits_for_100_continue_is_told_to_go_on() -> None:
    async def main() -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        async with connected(head) as stream:
            assert await stream.receive_some(100) == b"HTTP/1.1 100 \r\n\r\n"
            await stream.send_all(b"hello")
            assert b'"body":"hello"' in await stream.receive_some(1000)

    in_virtual_time(main)


def test_expect_with_too_large_a_body_is_refused_before_it() -> None:
    async def main() -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5001\r\n\r\n"
        async with connected(head) as stream:
            assert refusal_in(await drained(stream)) == (413, 40009)

    in_virtual_time(main)


def test_http_1_0_is_answered_and_closed() -> None:
    async def main() -> None:
        async with connected(b"GET /old HTTP/1.0\r\n\r\n") as stream:
            received = await drained(stream)
            assert received.startswith(b"HTTP/1.1 200 ") and b"/old" in received

    in_virtual_time(main)


def test_connection_close_is_obeyed() -> None:
    async def main() -> None:
        async with connected(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") as stream:
            assert (await drained(stream)).count(b"HTTP/1.1 200 ") == 1

    in_virtual_time(main)


def test_peer_with_closed_sending_side_gets_its_answer() -> None:
    async def main() -> None:
        async with connected(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n") as stream:
            await stream.send_eof()
            assert b"/last" in await drained(stream)

    in_virtual_time(main)


def test_a_request_that_ends_too_early_gets_no_answer() -> None:
    async def main() -> None:
        async with connected(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel") as stream:
            await stream.send_eof()
            assert await drained(stream) == b""
            assert trio.current_time() < 1

    in_virtual_time(main)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /?a=%ff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /?" + b"a&" * 300 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 1000 + b"\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", 400),
    ],
)
def test_invalid_http_is_refused_and_reading_ends(sent: bytes, status: int) -> None:
    async def main() -> None:
        async with connected(sent + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n") as stream:
            assert refusal_in(await drained(stream)) == (status, 40008 if b"Content-Length" in sent else 40000)

    in_virtual_time(main)


@pytest.mark.parametrize("length", [b"5001", b"99999999999999999999"])
def test_a_body_announced_too_large_is_refused_unread(length: bytes) -> None:
    async def main() -> None:
        async with connected(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + length + b"\r\n\r\n") as stream:
            assert refusal_in(await drained(stream)) == (413, 40009)

    in_virtual_time(main)


def test_a_body_of_exactly_the_limit_is_taken() -> None:
    async def main() -> None:
        async with connected() as stream:
            _, body = await H11Client(stream).request("POST", "/", b"x" * 5000)
            assert orjson.loads(body)["body"] == "x" * 5000

    in_virtual_time(main)


def test_chunks_that_add_up_to_too_much_are_refused() -> None:
    async def main() -> None:
        async with connected(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n") as stream:
            for _ in range(6):
                await stream.send_all(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            assert refusal_in(await drained(stream)) == (413, 40009)

    in_virtual_time(main)


def test_a_body_of_tiny_chunks_lets_others_have_their_turn() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def main() -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        sent = head + b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n"
        async with connected(sent) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(others)
            assert b"x" * 2000 in await stream.receive_some(10_000)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert turns > 50


@pytest.mark.parametrize("over", [0, 1])
def test_a_body_may_come_in_so_many_pieces(over: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs the same, however small it is."""
    monkeypatch.setattr("server.http.serving.MAX_PIECES", 100)

    async def main() -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        async with connected(head + b"1\r\nx\r\n" * (100 + over) + b"0\r\n\r\n") as stream:
            if over:
                assert refusal_in(await drained(stream)) == (400, 40000)
            else:
                assert b"x" * 100 in await stream.receive_some(10_000)

    in_virtual_time(main)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 1990 + b" HTTP/1.1\r\nHost: a\r\n\r\n",  # complete, in one piece
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 400 + b"\r\n",  # many
        b"GET / HTTP/1.1\r\nX: " + b"y" * 2500,  # large, without an end
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"y" * 2500,  # in the head of a chunk
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 400,  # behind the last
    ],
)
def test_a_head_larger_than_the_limit_is_refused(sent: bytes) -> None:
    async def main() -> None:
        async with connected(sent) as stream:
            assert refusal_in(await drained(stream)) == (431, 40000)

    in_virtual_time(main)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: ",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n",
    ],
    ids=["head", "body", "chunk"],
)
def test_a_request_that_trickles_in_is_refused_at_its_deadline(head: bytes) -> None:
    async def main() -> None:
        async with connected(head) as stream:
            async with trio.open_nursery() as nursery:

                async def trickle() -> None:
                    while True:
                        await trio.sleep(1)
                        await stream.send_all(b"x")

                nursery.start_soon(trickle)
                assert refusal_in(await drained(stream)) == (408, 40000)
                nursery.cancel_scope.cancel()
            assert 20 <= trio.current_time() <= 23

    in_virtual_time(main)


def test_what_a_request_has_waited_elsewhere_is_not_given_again() -> None:
    async def main() -> None:
        async with connected(b"GET / HTTP/1.1\r\nX: ", waited_seconds=15) as stream:
            assert refusal_in(await drained(stream)) == (408, 40000)
            assert 5 <= trio.current_time() <= 8

    in_virtual_time(main)


def test_an_idle_connection_is_let_go_without_a_word() -> None:
    async def main() -> None:
        async with connected(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") as stream:
            received = await drained(stream)
            assert received.count(b"HTTP/1.1") == 1
            assert 60 <= trio.current_time() <= 61

    in_virtual_time(main)


def test_long_idle_connection_is_closed_when_there_is_no_room() -> None:
    async def main() -> None:
        idle = IdleConnections()
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        async with connected(request, idle=idle) as long, connected(b"POST / HTTP/1.1\r\n", idle=idle):
            await long.receive_some(10_000)
            await trio.sleep(5)
            async with connected(request, idle=idle) as fresh:
                await fresh.receive_some(10_000)
                await trio.sleep(1)
                idle.shed(2)
                assert await long.receive_some(10_000) == b""
                await fresh.send_all(request)
                assert b"HTTP/1.1 200" in await fresh.receive_some(10_000)
            assert len(idle) == 0

    in_virtual_time(main)


def test_a_reader_that_does_not_read_is_let_go_after_a_while() -> None:
    async def main() -> None:
        client, server = trio.testing.lockstep_stream_pair()  # a send waits until it has been read
        await serve_http(server, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", echo, limits=LIMITS)
        assert 10 <= trio.current_time() <= 11
        await client.aclose()

    in_virtual_time(main)


@pytest.mark.parametrize("path", [b"/bug", b"/badheader"])
def test_a_bug_in_a_handler_costs_its_own_request_and_is_logged(path: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with connected() as stream:
            client = H11Client(stream)
            head, body = await client.request("GET", path.decode(), Origin="https://there")
            assert head.status_code == 500
            assert orjson.loads(body)["error"]["code"] == 50000
            assert b"planted" not in body
            assert dict(head.headers)[b"access-control-allow-origin"] == b"https://there"
            head, _ = await client.request("GET", "/next")
            assert head.status_code == 200

    with caplog.at_level(logging.ERROR, "unbroken.http"):
        in_virtual_time(main)
    assert [record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_a_peer_that_goes_away_is_nothing_to_talk_about(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with connected(sent) as stream:
            await stream.aclose()

    with caplog.at_level(logging.INFO):
        in_virtual_time(main)
    assert not caplog.records


def test_drain_closes_idle_at_once_and_busy_after_the_answer() -> None:
    async def main() -> None:
        idle = IdleConnections()
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
        async with connected(idle=idle) as quiet, connected(head, idle) as busy:
            await trio.testing.wait_all_tasks_blocked()
            assert len(idle) == 1
            idle.drain()
            assert await drained(quiet) == b""
            await busy.send_all(b"hi")
            received = await drained(busy)
            assert b'"body":"hi"' in received and b"Connection: close" in received
            assert len(idle) == 0
        assert trio.current_time() < 1

    in_virtual_time(main)


def test_a_refusal_reads_on_for_a_bounded_while_only() -> None:
    async def main() -> None:
        async with connected(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n") as stream:
            sent = 0
            try:
                while True:
                    await stream.send_all(b"x" * READ_BYTES)
                    await trio.testing.wait_all_tasks_blocked()
                    sent += READ_BYTES
            except trio.BrokenResourceError:
                pass
            assert 3 * 1024 * 1024 <= sent <= 5 * 1024 * 1024
            assert refusal_in(await drained(stream)) == (413, 40009)

    in_virtual_time(main)
