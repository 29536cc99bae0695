"""One HTTP/1.1 connection: requests in, whole responses out; keep-alive, pipelining, chunks, 100-continue.

    idle --first byte--> head --> body --> handler --> response --> idle ...
    |                    |                             |
    idle_seconds |       request_seconds for both      response_seconds
    then: close  |       then: 408, close              then: close
                 +-- asks for a WebSocket: handed back to the caller, whichever request of the connection it is

h11 decides what is valid HTTP; this module adds the bounds, the timeouts and the I/O. An invalid request is answered
with an error and a close, because nothing behind it can be trusted. A peer that goes away is not reported."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import lru_cache

import h11
import trio

from engine.errors import LimitExceeded, PubSubError
from server.http.bodies import Bodies, room_for_answers
from server.http.heads import LENGTH_WRONG, asks_for_websocket, check_head, check_upgrade, head_as_sent, too_long
from server.http.reply import refusal, respond
from server.http.request import Handler, HttpRequest, Response, bad_request, parse_target
from server.pace import LoopPace
from server.secure import TlsStream

LOGGER = logging.getLogger("unbroken.http")
_REPEATED = re.compile(r""":? (bytearray\(|b['"]).*""", re.DOTALL)  # the parser quotes its input: maybe a key

READ_BYTES = 16 * 1024  # at a time; bounds by how much a head can be over its limit before we see it
EVENTS_PER_TURN = 32  # h11 takes about 10 us for each chunk of a body: others get their turn in between
MAX_PIECES = 16 * 1024  # chunks, or reads, of one body: about 0.2 s in all, however small they are
SEND_BYTES = 64 * 1024  # at a time: TLS makes a copy of them; a body that fits goes out together with its head
READING = ("GET", "HEAD")  # what these ask for can be asked for again
LINGER_BYTES = 4 * 1024 * 1024  # that a refused peer may still be sending; see linger
LINGER_SECONDS = 2.0
TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8  # states, as Linux numbers them


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """A client that sends more, or slower, is refused; a silent one is disconnected."""

    head_bytes: int = 16 * 1024
    body_bytes: int = 2 * 1024 * 1024
    idle_seconds: float = 75.0
    request_seconds: float = 30.0
    response_seconds: float = 30.0


class IdleConnections:
    """Connections that wait for a request: a drain closes them at once."""

    def __init__(self) -> None:
        self.draining = False
        self._scopes: dict[trio.CancelScope, float] = {}  # since when, the longest first

    def __len__(self) -> int:
        return len(self._scopes)

    def drain(self) -> None:
        """Close idle connections; the others end after the current response."""
        self.draining = True
        self.shed(0)

    def shed(self, seconds: float) -> None:
        """Close connections that have been idle for this time."""
        before = trio.current_time() - seconds
        for scope, since in self._scopes.items():
            if since > before:
                break
            scope.cancel()

    async def wait(self, stream: trio.abc.Stream, seconds: float) -> bytes:
        """The first bytes of the next request; empty: there will be none."""
        with trio.move_on_after(0 if self.draining else seconds) as scope:
            self._scopes[scope] = trio.current_time()
            try:
                return bytes(await stream.receive_some(READ_BYTES))
            finally:
                del self._scopes[scope]
        return b""


async def serve_http(
    stream: trio.abc.Stream,
    initial: bytes,
    handler: Handler,
    *,
    limits: HttpLimits,
    idle: IdleConnections | None = None,
    waited_seconds: float = 0.0,
    elsewhere: Callable[[bytes], bool] = lambda received: False,
    bodies: Bodies | None = None,
    answers: Bodies | None = None,
    pace: LoopPace | None = None,
) -> bytes | None:
    """Serve one connection until it ends; the stream is left to the caller to close.

    Returns: None; or, if the peer requests a WebSocket, its request and the bytes behind that: from then on the
        connection is the caller's. Proxies keep connections and send any request over them, this one too.

    Args:
        initial: the bytes of the first request that have been read already.
        waited_seconds: how long ago it began: it has so much less time.
        elsewhere: told the first bytes of each further request; True: it has taken the connection over.
        handler: if it fails, its request is answered with 500, and the connection goes on.
        pace: which passes of the loop its requests are served in.
    If cancelled, a response may be cut short.
    """
    idle = IdleConnections() if idle is None else idle
    rooms = bodies or Bodies(), answers or room_for_answers()
    connection = _Connection(stream, handler, limits, idle, waited_seconds, elsewhere, *rooms, pace)
    try:
        return await connection.run(initial)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as gone:
        LOGGER.debug("peer gone: %r", gone)
        return None


class _UpgradeError(Exception):
    """The request is for a WebSocket."""

    def __init__(self, received: bytes) -> None:
        super().__init__("upgrade")
        self.received = received


class _RefusedError(Exception):
    """The request cannot be served, and the connection has to end."""

    def __init__(self, error: PubSubError) -> None:
        super().__init__(str(error))
        self.error = error


class _PeerGoneError(Exception):
    """The peer closed before its request was complete."""


class _Connection:
    def __init__(
        self,
        stream: trio.abc.Stream,
        handler: Handler,
        limits: HttpLimits,
        idle: IdleConnections,
        waited_seconds: float,
        elsewhere: Callable[[bytes], bool],
        bodies: Bodies,
        answers: Bodies,
        pace: LoopPace | None,
    ) -> None:
        self._stream = stream
        self._handler = handler
        self._limits = limits
        self._idle = idle
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._is_tls = isinstance(stream, TlsStream)
        self._peer = _peer_of(stream)
        self._events = 0
        self._asked: HttpRequest | None = None  # the request that is coming in, as far as it is known
        self._waited = waited_seconds
        self._elsewhere = elsewhere
        self._bodies = bodies
        self._answers = answers
        self._pace = pace
        self._due = 0.0  # see LoopPace.turn
        self._body = bytearray()
        self._unread = 0  # bytes held for it beside that: half a head, or bytes behind its request
        self._deadline = math.inf  # of the request that is coming in
        self._ended = False  # the peer will send no more

    async def run(self, received: bytes) -> bytes | None:
        """Until the connection ends, or the peer requests a WebSocket: its request, and the bytes behind it."""
        try:
            if received:
                self._http.receive_data(received)
            while await self._next_request():
                if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is h11.MUST_CLOSE:
                    break
                self._http.start_next_cycle()
        except _RefusedError as refused:
            await self._refuse(refused.error)
        except _PeerGoneError:
            LOGGER.debug("the peer left in the middle of a request")
        except _UpgradeError as upgrade:
            return upgrade.received
        finally:
            self._bodies.release(self._unread)
        return None

    async def _next_request(self) -> bool:
        """Serve one request; False: there is none, or none can follow it."""
        if not self._http.trailing_data[0]:
            data = await self._idle.wait(self._stream, self._limits.idle_seconds)
            if not data or self._elsewhere(data):
                return False
            self._http.receive_data(data)
        self._deadline = trio.current_time() + self._limits.request_seconds - self._waited
        self._waited = 0.0
        self._asked = None
        if self._pace is not None:
            self._due = await self._pace.turn(self._due)
        try:
            request = await self._read_request()
            head, body = await self._handle(request)
        finally:
            self._bodies.release(len(self._body))
            self._body = bytearray()
        self._hold_unread(must=True)  # its answer may take long to leave
        head, body = self._fitting(request, head, body)
        try:
            with trio.move_on_after(self._limits.response_seconds) as scope:
                await self._send(head, body)
        finally:
            self._answers.release(len(body))
        return not scope.cancelled_caught and self._http.our_state in (h11.DONE, h11.MUST_CLOSE)

    def _hold_unread(self, *, must: bool) -> None:
        """Count the bytes that the library holds. Raises: _RefusedError, unless they ``must`` be held."""
        before, self._unread = self._unread, 0
        self._bodies.release(before)
        unread = len(self._http.trailing_data[0])
        if must:
            self._bodies.hold(0, unread)
        else:
            try:
                self._bodies.grow(0, unread)
            except LimitExceeded as error:
                raise _RefusedError(error) from error
        self._unread = unread

    async def _read_request(self) -> HttpRequest:
        head = await self._event()
        if self._unread:
            self._bodies.release(self._unread)
            self._unread = 0
        if not isinstance(head, h11.Request):
            raise _PeerGoneError
        headers: dict[str, str] = {}
        for raw_name, raw_value in head.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        method, target = head.method.decode("ascii"), head.target.decode("ascii")
        self._asked = HttpRequest(method, target, {}, headers, b"", self._is_tls, self._peer)
        try:
            check_head(head, headers, self._limits.head_bytes)
            if asks_for_websocket(headers):
                check_upgrade(head, headers)
                raise _UpgradeError(head_as_sent(head) + self._http.trailing_data[0])
        except PubSubError as error:
            raise _RefusedError(error) from error
        try:
            path, query = parse_target(target)
        except ValueError as error:
            raise _RefusedError(bad_request(f"query: cannot be decoded: {error}")) from error
        self._asked = HttpRequest(method, path, query, headers, b"", self._is_tls, self._peer)
        body = await self._read_body(headers)
        return replace(self._asked, body=body, has_left=self._has_left)

    def _has_left(self) -> bool:
        """The peer has ended the connection, at least from its side. A client that waits for an answer never does."""
        stream = self._stream
        while isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        if not isinstance(stream, trio.SocketStream):
            return False
        state = stream.socket.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_INFO, 1)[0]
        return state in (TCP_CLOSE, TCP_CLOSE_WAIT)

    async def _read_body(self, headers: dict[str, str]) -> bytes:
        most = self._limits.body_bytes
        too_large = bad_request(f"body: larger than {most} bytes", code=40009, status=413)
        if int(headers.get("content-length", "0")) > most:  # h11 has checked that it is a number, of 20 digits at most
            raise _RefusedError(too_large)
        if self._http.they_are_waiting_for_100_continue:
            go_on = self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            with self._in_time():
                await self._stream.send_all(go_on)
        for _ in range(MAX_PIECES + 1):
            event = await self._event()
            if isinstance(event, h11.EndOfMessage):
                return bytes(self._body)
            if not isinstance(event, h11.Data):
                raise _PeerGoneError
            if len(event.data) > most - len(self._body):
                raise _RefusedError(too_large)
            try:
                self._bodies.grow(len(self._body), len(event.data))
            except LimitExceeded as error:
                raise _RefusedError(error) from error
            self._body += event.data
        raise _RefusedError(bad_request(f"body: arrived in more than {MAX_PIECES} pieces"))

    async def _event(self) -> h11.Event:
        self._events += 1
        if self._events % EVENTS_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                error.__traceback__ = None  # one of its frames holds it: with this connection it would stay for ever
                if self._ended:
                    raise _PeerGoneError from error
                reason = _REPEATED.sub("", str(error))
                code = LENGTH_WRONG if "Content-Length" in reason else 40000
                malformed = bad_request(f"malformed request: {reason}", code, error.error_status_hint)
                if error.error_status_hint == 431 and self._asked is None:
                    malformed = too_long(self._limits.head_bytes)
                raise _RefusedError(malformed) from error
            if isinstance(event, h11.Event):
                return event
            assert event is h11.NEED_DATA  # paused it is only after a whole request, when nobody asks
            if self._asked is None:
                self._hold_unread(must=False)
            with self._in_time():
                data = bytes(await self._stream.receive_some(READ_BYTES))
            self._ended = not data
            self._http.receive_data(data)

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """A timeout while a request comes in: most come whole, and need none."""
        with trio.move_on_at(self._deadline) as scope:
            yield
        if scope.cancelled_caught:
            raise _RefusedError(too_slow(self._limits.request_seconds))

    async def _handle(self, request: HttpRequest) -> tuple[h11.Response, bytes]:
        """The handler's response; 500 in its place if it failed, or returned invalid HTTP."""
        try:
            response = await self._handler(request)
            return self._head_of(request, response), response.body
        except Exception:
            LOGGER.exception("%s %s from %s failed", request.method, request.path, self._peer)
            response = respond(request, refusal(PubSubError("internal error", code=50000, status=500)))
            return self._head_of(request, response), response.body

    def _fitting(self, request: HttpRequest, head: h11.Response, body: bytes) -> tuple[h11.Response, bytes]:
        """The answer, if there is memory for it; or one that says that there is none."""
        if self._bodiless():
            body = b""
        if request.method not in READING:  # a completed operation must not be reported as failed
            self._answers.hold(0, len(body))
            return head, body
        try:
            self._answers.grow(0, len(body))
        except LimitExceeded as full:
            response = respond(request, refusal(full))
            head, body = self._head_of(request, response), response.body
            self._answers.hold(0, len(body))
        return head, body

    def _head_of(self, request: HttpRequest | None, response: Response) -> h11.Response:
        """Raises: h11.LocalProtocolError, if a header is invalid."""
        return head_of(response, last=request is None or self._idle.draining)

    async def _send(self, head: h11.Response, body: bytes) -> None:
        events: list[h11.Event] = [head]
        if body and not self._bodiless():
            events.append(h11.Data(body))
        events.append(h11.EndOfMessage())
        pieces = [self._http.send(event) or b"" for event in events]
        if len(body) <= SEND_BYTES:
            pieces = [b"".join(pieces)]
        for piece in pieces:
            for at in range(0, len(piece), SEND_BYTES):
                await self._stream.send_all(memoryview(piece)[at : at + SEND_BYTES])

    def _bodiless(self) -> bool:
        return self._asked is not None and self._asked.method == "HEAD"

    async def _refuse(self, error: PubSubError) -> None:
        """Send the reason, if that is still possible, and end. In JSON, if the head of the request is incomplete."""
        LOGGER.debug("a request from %s was refused: %s", self._peer, error)
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        asked = self._asked or HttpRequest("", "", {}, {}, b"", self._is_tls, self._peer)
        response = respond(asked, refusal(error))
        with trio.move_on_after(self._limits.response_seconds) as scope:
            await self._send(self._head_of(None, response), response.body)
        if not scope.cancelled_caught:
            await linger(self._stream)


async def linger(stream: trio.abc.Stream) -> None:
    """Read on for a moment: closing with unread bytes would reset the connection and lose the answer."""
    with trio.move_on_after(LINGER_SECONDS):
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
        unread = LINGER_BYTES
        while unread > 0 and (data := await stream.receive_some(READ_BYTES)):
            unread -= len(data)


def too_slow(seconds: float) -> PubSubError:
    """The error for a client that takes longer than so many seconds for a request."""
    return bad_request(f"the request took longer than {seconds:g} seconds", status=408)


def head_of(response: Response, *, last: bool) -> h11.Response:
    """The complete head of this response; ``last``: the connection ends with it.

    Raises: h11.LocalProtocolError, if a header is invalid.
    """
    headers = list(response.headers)
    if response.status != 204:  # which must not have one
        headers.append(("Content-Length", str(len(response.body))))
    headers.append(("Date", date_now()))
    if last:
        headers.append(("Connection", "close"))
    encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
    return h11.Response(status_code=response.status, headers=encoded)


def whole_response(response: Response, *, last: bool) -> bytes:
    """The same with the body behind it, as it goes over the wire to a peer that speaks HTTP/1.1.

    Raises: h11.LocalProtocolError, if a header is invalid.
    """
    head = head_of(response, last=last)
    lines = [b"HTTP/1.1 %d " % response.status, *(b"%s: %s" % field for field in head.headers.raw_items())]
    return b"\r\n".join([*lines, b"", response.body])


def date_now() -> str:
    """The value of a Date header."""
    return _date(int(time.time()))


@lru_cache(1)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def _peer_of(stream: trio.abc.Stream) -> str:
    """The address at the other end, for the log."""
    if isinstance(stream, TlsStream):
        stream = stream.transport_stream
    if isinstance(stream, trio.SocketStream):
        try:
            return str(stream.socket.getpeername()[0])
        except OSError:
            return "a peer that is gone"
    return "an unnamed peer"
