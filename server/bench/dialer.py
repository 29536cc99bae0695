"""Opens connections, many at a time: connects, requests a WebSocket, checks the answer.

waiting -> connecting (writable?) -> asked (101?) -> on_open(client, descriptor, bytes behind the answer)
                at most ``at_once`` of these           on_failure(client, why)"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from server.bench.relay import Relay
from server.bench.target import Target

ANSWER_BYTES = 16 * 1024
DIAL_SECONDS = 30.0  # a server that has not answered by then counts as failed


class Dialling(Protocol):
    """The owner of a connection that is being opened."""

    resume: str | None

    def opened(self, descriptor: int, received: bytes) -> None: ...
    def failed(self, why: str) -> None: ...


@dataclass(slots=True)
class Attempt:
    client: Dialling
    connection: socket.socket
    until: float
    request: bytes
    accept: bytes
    asked: bool = False
    received: bytes = b""


class Dialer:
    """Call ``step`` until it is not ``busy``."""

    def __init__(self, target: Target, at_once: int) -> None:
        self._target = target
        self._relay = Relay(target) if target.secure else None
        self._at_once = at_once
        self._waiting: deque[Dialling] = deque()
        self._attempts: dict[int, Attempt] = {}
        self._epoll = select.epoll()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._attempts)

    def dial(self, client: Dialling) -> None:
        self._waiting.append(client)

    def step(self, seconds: float = 0.0) -> bool:
        """Continue all attempts. False: nothing has happened."""
        happened = False
        while self._waiting and len(self._attempts) < self._at_once:
            self._begin(self._waiting.popleft())
            happened = True
        for descriptor, _ in self._epoll.poll(0 if happened else seconds):
            happened = True
            self._go_on(self._attempts[descriptor])
        if not happened and self._attempts:
            now = time.monotonic()
            for attempt in [attempt for attempt in self._attempts.values() if attempt.until < now]:
                self._fail(attempt, f"no answer within {DIAL_SECONDS:g} s")
        return happened

    def close(self) -> None:
        for attempt in list(self._attempts.values()):
            self._drop(attempt)
        self._epoll.close()
        if self._relay is not None:
            self._relay.close()

    def _begin(self, client: Dialling) -> None:
        request, accept = self._target.request(client.resume)
        try:
            connection = self._relay.connect() if self._relay is not None else self._target.plain_socket()
        except OSError as error:
            client.failed(_reason(error))
            return
        attempt = Attempt(client, connection, time.monotonic() + DIAL_SECONDS, request, accept)
        self._attempts[connection.fileno()] = attempt
        self._epoll.register(connection.fileno(), select.EPOLLOUT)

    def _go_on(self, attempt: Attempt) -> None:
        try:
            if not attempt.asked:
                attempt.connection.sendall(attempt.request)  # some hundred bytes into an empty buffer
                attempt.asked = True
                self._epoll.modify(attempt.connection.fileno(), select.EPOLLIN)
                return
            data = attempt.connection.recv(ANSWER_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(attempt, _reason(error))
            return
        attempt.received += data
        head, end, rest = attempt.received.partition(b"\r\n\r\n")
        if not data:
            self._fail(attempt, self._why_closed(attempt))
        elif end:
            problem = _problem(head, attempt.accept, rest)
            if problem:
                self._fail(attempt, problem)
            else:
                descriptor = attempt.connection.fileno()
                self._epoll.unregister(descriptor)
                del self._attempts[descriptor]
                attempt.connection.detach()
                attempt.client.opened(descriptor, rest)
        elif len(attempt.received) > ANSWER_BYTES:
            self._fail(attempt, "the answer is not HTTP")

    def _why_closed(self, attempt: Attempt) -> str:
        if self._relay is not None and not self._relay.failures.empty():
            return self._relay.failures.get()
        return "the server closed the connection" + (" without an answer" if not attempt.received else "")

    def _fail(self, attempt: Attempt, why: str) -> None:
        self._drop(attempt)
        attempt.client.failed(why)

    def _drop(self, attempt: Attempt) -> None:
        self._attempts.pop(attempt.connection.fileno(), None)
        attempt.connection.close()


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return "no local port is left for more connections to this address"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "no descriptor is left: raise the limit on open files (ulimit -n)"
    return error.strerror or os.strerror(error.errno or 0)


def _problem(head: bytes, accept: bytes, rest: bytes) -> str | None:
    """The fault of the answer to the request."""
    status, *lines = head.split(b"\r\n")
    parts = status.split(b" ", 2)
    if not parts[0].startswith(b"HTTP/1.") or len(parts) < 2:
        return "the answer is not HTTP"
    if parts[1] != b"101":
        body = rest[:200].decode(errors="replace").strip()
        return f"not a WebSocket: HTTP status {parts[1].decode(errors='replace')} {body}"
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if headers.get(b"sec-websocket-accept") != accept:
        return "the answer does not match the WebSocket request (Sec-WebSocket-Accept)"
    return None
