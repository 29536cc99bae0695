"""A peer that sends bytes as they are, over plain TCP or TLS, and tells what the server says to them until it ends.

    with Peer(served) as peer:
        peer.send(upgrade("json") + frame(PING, b"x"))      in one read of the server's, as far as it lies with us
        peer.told(3)                                        ["101", "CONNECTED", "pong x"]
        peer.told()                                         all else, up to the end of the connection

Frames are put together here by hand, so that they may be wrong in any way."""

from __future__ import annotations

import json
import re
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Self

import msgpack

from tests.harness import KEY, Server
from tests.rawclient import PATIENCE, Action

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FORMATS = {TEXT: "json", BINARY: "msgpack"}


@dataclass(frozen=True, slots=True)
class Served:
    """A server, and what a client needs to speak to it."""

    server: Server
    tls: ssl.SSLContext | None


def upgrade(format: str = "json", *, path: str = "/", key: str = KEY, query: str = "", more: str = "") -> bytes:
    """A request for a WebSocket; ``more`` are whole lines of its head."""
    return (
        f"GET {path}?key={key}&v=6&format={format}{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    ).encode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """One frame of a client's; its mask is all zeros."""
    size, mask = len(payload), 0x80 if masked else 0
    head = bytes((fin << 7 | reserved << 4 | opcode,))
    if size < 126:
        head += bytes((mask | size,))
    elif size < 1 << 16:
        head += bytes((mask | 126,)) + size.to_bytes(2, "big")
    else:
        head += bytes((mask | 127,)) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload


def message(value: Any, format: str = "json") -> bytes:
    """A frame with a protocol message in it."""
    return frame(BINARY, msgpack.packb(value)) if format == "msgpack" else frame(TEXT, json.dumps(value).encode())


class Peer:
    """Blocking. Raises (reading): TimeoutError, when nothing comes."""

    def __init__(self, served: Served) -> None:
        self.socket = socket.create_connection(served.server.address, timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if served.tls is not None:
            self.socket = served.tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self._data = b""
        self._ended = False
        self.formats: set[str] = set()  # of the messages that it has been told

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer of HTTP: its status, its headers by their names in lower case, its body."""
        status, headers = self.head()
        size = int(headers.get("content-length", "0"))
        while len(self._data) < size:
            assert self._read(), f"the connection ended within a body: {self._data!r}"
        body, self._data = self._data[:size], self._data[size:]
        return status, headers, body

    def head(self) -> tuple[int, dict[str, str]]:
        """That of the next answer."""
        while b"\r\n\r\n" not in self._data:
            assert self._read(), f"the connection ended within a head: {self._data!r}"
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        status = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", line)
        assert status is not None, line
        named = (field.partition(":") for field in fields)
        return int(status[1]), {name.lower(): value.strip() for name, _, value in named}

    def refusal(self) -> tuple[int, int, str]:
        """Status, code and message of an error that is told by HTTP; body and headers must say the same."""
        status, headers, body = self.answer()
        assert headers["content-type"] in ("application/json", "application/x-msgpack"), headers
        value = msgpack.unpackb(body) if headers["content-type"] == "application/x-msgpack" else json.loads(body)
        error = value["error"]
        assert error["statusCode"] == status >= 400
        assert headers["x-ably-errorcode"] == str(error["code"])
        return status, error["code"], error["message"]

    def told(self, count: int | None = None) -> list[str]:
        """The next so many things that it is told, each in a word or two; None: all up to the end."""
        told: list[str] = []
        while count is None or len(told) < count:
            one = self._next()
            if one is not None:
                told.append(one)
            elif not self._read():
                assert not self._data, f"the connection ended within {self._data!r}"
                assert count is None, f"the connection ended after {told}"
                return told
        return told

    def hears_end(self) -> bool:
        """Nothing more comes but the end of the connection."""
        return self.told() == []

    def _read(self) -> bool:
        data = b"" if self._ended else self.socket.recv(65536)
        self._data += data
        self._ended = not data
        return bool(data)

    def _next(self) -> str | None:
        """The next thing in what has come; None: it is not whole."""
        data = self._data
        if data.startswith(b"HTTP/"):
            head, end, self._data = data.partition(b"\r\n\r\n")
            if not end:
                self._data = data
                return None
            return head.split(b" ")[1].decode()
        if len(data) < 2:
            return None
        assert data[0] & 0x70 == 0 and data[0] & 0x80 and not data[1] & 0x80, data[:20]
        at, size = 2, data[1] & 127
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(data) < at:
                return None
            size = int.from_bytes(data[2:at], "big")
        if len(data) < at + size:
            return None
        self._data = data[at + size :]
        opcode = data[0] & 15
        if opcode in FORMATS:
            self.formats.add(FORMATS[opcode])
        return _named(opcode, data[at : at + size])

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _named(opcode: int, payload: bytes) -> str:
    if opcode == CLOSE:
        return f"close {int.from_bytes(payload[:2], 'big')}"
    if opcode == PONG:
        return f"pong {payload.decode()}"
    if opcode == PING:
        return "ping"
    value = json.loads(payload) if opcode == TEXT else msgpack.unpackb(payload)
    parts = [Action(value["action"]).name]
    if "error" in value:
        parts.append(f"{value['error']['code']}/{value['error']['statusCode']}")
    if value.get("id"):
        parts.append(str(value["id"]))
    return " ".join(parts)
