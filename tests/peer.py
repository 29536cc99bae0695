"""A raw client: bytes as they are, over plain TCP or TLS, and what the server says to them until it ends.

    with Peer(address, tls) as peer:
        peer.send(upgrade("json") + frame(PING, b"x"))      in one read of the server's, as far as it lies with us
        peer.told(3)                                        ["101", "CONNECTED", "pong x"]
        peer.told()                                         all else, up to the end of the connection
        peer.answer()                                       an answer of HTTP: status, headers, body

Frames are put together here by hand, so that they may be wrong in any way; what the server frames is taken apart by
hand, too, and must be right. Nothing of the server's own code is in it."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import struct
from enum import IntEnum
from typing import Any, Self

import msgpack

from tests.harness import KEY, Address

PATIENCE = 20.0  # seconds; whoever waits longer for an answer has found a bug
PIECE = 1 << 18  # bytes of one read

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
CLOSE_CODES = {1000, 1001, 1002, 1003, *range(1007, 1015)}
FORMATS = {TEXT: "json", BINARY: "msgpack"}
NONCE, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of RFC 6455, section 1.3


class Action(IntEnum):
    HEARTBEAT = 0
    ACK = 1
    NACK = 2
    CONNECTED = 4
    DISCONNECT = 5
    DISCONNECTED = 6
    CLOSE = 7
    CLOSED = 8
    ERROR = 9
    ATTACH = 10
    ATTACHED = 11
    DETACH = 12
    DETACHED = 13
    MESSAGE = 15
    AUTH = 17


class GoneError(ConnectionError):
    """The server, or the way to it, is gone; what had come before was handed out first."""


def upgrade(format: str = "json", *, path: str = "/", key: str = KEY, query: str = "", more: str = "") -> bytes:
    """A request for a WebSocket; ``more`` are whole lines of its head."""
    return upgrade_to(f"{path}?key={key}&v=6&format={format}{query}", more)


def upgrade_to(target: str, more: str = "") -> bytes:
    return (
        f"GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {NONCE}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    ).encode()


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    mask: bytes = bytes(4),
) -> bytes:
    """One frame of a client's; a mask that is all zeros leaves the payload as it is."""
    first, bit, size = (0x80 if fin else 0) | reserved << 4 | opcode, 0x80 if masked else 0, len(payload)
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    if any(mask):
        key = (mask * (size // 4 + 1))[:size]
        payload = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
    return head + (mask if masked else b"") + payload


def framed(content: str | bytes, **options: Any) -> bytes:
    """A frame of text or binary, whatever is in it; ``options`` are those of ``frame``."""
    if isinstance(content, str):
        return frame(TEXT, content.encode(), **options)
    return frame(BINARY, content, **options)


def message(value: Any, format: str = "json") -> bytes:
    """A frame with a protocol message in it."""
    return framed(msgpack.packb(value) if format == "msgpack" else json.dumps(value))


def taken_apart(data: bytes, most: int = 1 << 30) -> tuple[list[tuple[int, bytes]], bytes]:
    """The server's frames that are whole (opcode and payload), and what is left. It sends no fragments.

    Raises: AssertionError, if one is not as RFC 6455 has it."""
    found: list[tuple[int, bytes]] = []
    at, end = 0, len(data)
    while end - at >= 2 and len(found) < most:
        opcode, size, start = data[at] - 0x80, data[at + 1], at + 2
        assert opcode in (TEXT, BINARY, CLOSE, PING, PONG), data[at : at + 20]
        if size > 125:
            assert size < 128 and opcode < CLOSE, data[at : at + 20]
            start, least = (at + 4, 126) if size == 126 else (at + 10, 65536)
            if start > end:
                break
            size = int.from_bytes(data[at + 2 : start], "big")
            assert size >= least, "a length that is longer than it must be"
        if start + size > end:
            break
        at = start + size
        found.append((opcode, data[start:at]))
        if opcode == CLOSE and size:
            code = int.from_bytes(data[start : start + 2], "big")
            assert size > 1 and (code in CLOSE_CODES or 3000 <= code < 5000), data[start:at]
            assert data[start + 2 : at].decode() is not None
    return found, data[at:]


class Peer:
    """Blocking. Raises (each method): GoneError, where the connection has ended; TimeoutError, when nothing comes."""

    def __init__(
        self,
        address: Address,
        tls: ssl.SSLContext | None = None,
        *,
        receive_buffer: int = 0,
        patience: float = PATIENCE,
    ) -> None:
        self.patience = patience
        self.socket = _connected(address, tls, receive_buffer, patience)
        self.formats: set[str] = set()  # of the messages that it has been told
        self.unread = b""  # what has come, and was handed out to nobody yet
        self._ended = False

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise GoneError(str(error)) from error

    def read(self, seconds: float | None = None) -> bool:
        """Take what has come, waiting for something; False: that was the end."""
        if self._ended:
            return False
        if seconds is not None:
            self.socket.settimeout(max(0.001, seconds))
        try:
            data = self.socket.recv(PIECE)
        except TimeoutError:
            raise
        except OSError as error:
            self._ended = True
            raise GoneError(str(error)) from error
        finally:
            if seconds is not None and self.socket.fileno() >= 0:
                self.socket.settimeout(self.patience)
        self.unread = self.unread + data if self.unread else data
        self._ended = not data
        return bool(data)

    # bytes

    def until(self, mark: bytes) -> bytes:
        """What comes up to the mark and with it; all there is, if the connection ends before."""
        while mark not in self.unread and self.read():
            pass
        at = self.unread.find(mark)
        end = len(self.unread) if at < 0 else at + len(mark)
        found, self.unread = self.unread[:end], self.unread[end:]
        return found

    def rest(self, *, reset: bool = False) -> bytes:
        """All that comes until the connection ends; ``reset``: which may be a reset, too."""
        try:
            while self.read():
                pass
        except GoneError:
            if not reset:
                raise
        found, self.unread = self.unread, b""
        return found

    # HTTP

    def answer(self, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """The next answer: its status, its headers by their names in lower case, its body (of HEAD there is none)."""
        status, headers = self.head()
        size = int(headers.get("content-length", "0")) if body else 0
        while len(self.unread) < size:
            self._need(self.read(), "a body")
        content, self.unread = self.unread[:size], self.unread[size:]
        return status, headers, content

    def head(self) -> tuple[int, dict[str, str]]:
        """That of the next answer; what several headers of one name say is joined."""
        while b"\r\n\r\n" not in self.unread:
            self._need(self.read(), "a head")
        head, _, self.unread = self.unread.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        status = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", line)
        assert status is not None, line
        headers: dict[str, str] = {}
        for name, colon, value in (field.partition(":") for field in fields):
            assert name and colon, head
            known = f"{headers[name.lower()]}, " if name.lower() in headers else ""
            headers[name.lower()] = known + value.strip()
        return int(status[1]), headers

    def refusal(self) -> tuple[int, int, str]:
        """Status, code and message of an error that is told by HTTP; body and headers must say the same."""
        status, headers, body = self.answer()
        assert headers["content-type"] in ("application/json", "application/x-msgpack"), headers
        value = msgpack.unpackb(body) if headers["content-type"] == "application/x-msgpack" else json.loads(body)
        error = value["error"]
        assert error["statusCode"] == status >= 400
        assert headers["x-ably-errorcode"] == str(error["code"])
        return status, error["code"], error["message"]

    def _need(self, read: bool, part: str) -> None:
        if not read:
            raise GoneError(f"the connection ended within {part}: {self.unread!r}" if self.unread else "it has ended")

    # WebSocket

    def frames(self, most: int = 1 << 30) -> list[tuple[int, bytes]]:
        """Those that have come whole: opcode and payload."""
        found, self.unread = taken_apart(self.unread, most)
        return found

    def told(self, count: int | None = None) -> list[str]:
        """The next so many things that it is told, each in a word or two; None: all up to the end."""
        told: list[str] = []
        while count is None or len(told) < count:
            one = self._next()
            if one is not None:
                told.append(one)
            elif not self.read():
                assert not self.unread, f"the connection ended within {self.unread!r}"
                assert count is None, f"the connection ended after {told}"
                return told
        return told

    def hears_end(self) -> bool:
        """Nothing more comes but the end of the connection."""
        return self.told() == []

    def _next(self) -> str | None:
        """The next thing in what has come; None: it is not whole."""
        if self.unread.startswith(b"HTTP/"):
            return str(self.head()[0]) if b"\r\n\r\n" in self.unread else None
        for opcode, payload in self.frames(most=1):
            if opcode in FORMATS:
                self.formats.add(FORMATS[opcode])
            return _named(opcode, payload)
        return None

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Closes, too, as a crash would: what was not sent is forgotten."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def all_said_to(address: Address, *pieces: bytes, ends: bool = False) -> bytes:
    """What comes until the connection ends, which may be a reset; the pieces go out one by one.

    ``ends``: there is nothing more behind them."""
    with Peer(address) as peer:
        for piece in pieces:
            peer.send(piece)
        if ends:
            peer.socket.shutdown(socket.SHUT_WR)
        return peer.rest(reset=True)


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


def _connected(address: Address, tls: ssl.SSLContext | None, receive_buffer: int, patience: float) -> socket.socket:
    """``receive_buffer``: from the beginning, for later it would no longer decide the window."""
    with contextlib.ExitStack() as failed:
        try:
            if receive_buffer:
                one = failed.enter_context(socket.socket())
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
                one.settimeout(patience)
                one.connect(address)
            else:
                one = failed.enter_context(socket.create_connection(address, patience))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made = one if tls is None else tls.wrap_socket(one, server_hostname=address[0])
        except OSError as error:
            raise GoneError(str(error)) from error
        failed.pop_all()
        return made
