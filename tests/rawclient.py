"""A client of the wire protocol with no cleverness at all: it sends protocol messages and shows what comes back.

    client = RawClient(address, format="msgpack")        connects, and has read CONNECTED
    client.attach("room")                                the ATTACHED
    client.send_messages("room", [{"data": "x"}])        its msgSerial, at once
    client.expect(Action.ACK)                            the next ACK; what came before it waits in the inbox
    client.drop()                                        the socket is gone, nothing said

Its frames are wsproto's, its msgpack and JSON are the common libraries': nothing of the server's own code is in it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import time
import urllib.parse
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any

import msgpack
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

from tests.harness import KEY, Address

PATIENCE = 20.0  # seconds; whoever waits longer for an answer has found a bug
RESUMED, ATTACH_RESUME, HAS_BACKLOG = 4, 32, 2


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


class RefusedError(Exception):
    """The server said ERROR, with the channel or for the whole connection."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.code = error.get("code")
        self.status = error.get("statusCode")


class RawClient:
    """One connection; blocking, for one thread.

    Raises (each method): GoneError, when the connection has ended; TimeoutError, when nothing comes.
    """

    def __init__(
        self,
        address: Address,
        *,
        format: str = "json",
        key: str | None = KEY,
        greet: bool = True,
        authorization: str | None = None,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        receive_buffer: int = 0,
        **params: str,
    ) -> None:
        query = {"format": format, "v": "6", **({} if key is None else {"key": key}), **params}
        self.format = format
        self.inbox: deque[dict[str, Any]] = deque()
        self.next_serial = 0
        self._incoming: deque[dict[str, Any]] = deque()
        self._partial: list[str | bytes] = []
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._upgraded = self._ended = False
        self._socket = self._connect(address, tls, receive_buffer)
        try:
            target = "/?" + urllib.parse.urlencode(query)
            given = {**(headers or {}), **({} if authorization is None else {"authorization": authorization})}
            extra = [(name.encode(), value.encode()) for name, value in given.items()]
            request = Request(host=f"{address[0]}:{address[1]}", target=target, extra_headers=extra)
            self._write(self._ws.send(request))
            deadline = time.monotonic() + PATIENCE
            while not self._upgraded:
                self._read(deadline)
            self.connected = self._greeting() if greet else {}
        except BaseException:
            self._socket.close()
            raise

    @staticmethod
    def _connect(address: Address, tls: ssl.SSLContext | None, receive_buffer: int) -> socket.socket:
        try:
            one = (
                _small_window(address, receive_buffer)
                if receive_buffer
                else socket.create_connection(address, PATIENCE)
            )
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return one if tls is None else tls.wrap_socket(one, server_hostname=address[0])
        except OSError as error:
            raise GoneError(str(error)) from error

    def _greeting(self) -> dict[str, Any]:
        first = self.receive()
        if first["action"] == Action.ERROR:
            raise RefusedError(first["error"])
        assert first["action"] == Action.CONNECTED, first
        return first

    @property
    def connection_id(self) -> str:
        return str(self.connected["connectionId"])

    @property
    def connection_key(self) -> str:
        return str(self.connected["connectionDetails"]["connectionKey"])

    # out

    def send(self, message: Mapping[str, Any]) -> None:
        """One protocol message, as it is."""
        self.send_raw(msgpack.packb(message) if self.format == "msgpack" else json.dumps(message))

    def send_raw(self, data: str | bytes) -> None:
        """One frame with whatever content."""
        event = TextMessage(data=data) if isinstance(data, str) else BytesMessage(data=data)
        try:
            framed = self._ws.send(event)
        except LocalProtocolError as error:  # the server has said goodbye
            raise GoneError(str(error)) from error
        self._write(framed)

    def write(self, data: bytes) -> None:
        """Bytes that need not be a frame at all."""
        self._write(data)

    def send_messages(
        self, channel: str, messages: Iterable[Mapping[str, Any]], *, msg_serial: int | None = None
    ) -> int:
        """Publish and don't wait; with the next msgSerial, or a given one (again)."""
        if msg_serial is None:
            msg_serial = self.next_serial
        self.next_serial = max(self.next_serial, msg_serial + 1)
        out = {"action": Action.MESSAGE, "channel": channel, "msgSerial": msg_serial, "messages": list(messages)}
        self.send(out)
        return msg_serial

    def publish(self, channel: str, *messages: Mapping[str, Any]) -> list[str]:
        """Publish and wait: the serials that the ACK names. Raises: RefusedError, with the NACK's error."""
        msg_serial = self.send_messages(channel, messages)
        answer = self.expect(Action.ACK, Action.NACK)
        assert answer["msgSerial"] == msg_serial, answer
        if answer["action"] == Action.NACK:
            raise RefusedError(answer["error"])
        return list(answer["res"][0]["serials"])

    def attach(self, channel: str, **fields: Any) -> dict[str, Any]:
        """The ATTACHED; ``fields`` are those of ATTACH (channelSerial, flags, params). Raises: RefusedError."""
        self.send({"action": Action.ATTACH, "channel": channel, **fields})
        answer = self.expect(Action.ATTACHED, Action.ERROR, channel=channel)
        if answer["action"] == Action.ERROR:
            raise RefusedError(answer["error"])
        return answer

    # in

    def receive(self, seconds: float = PATIENCE) -> dict[str, Any]:
        """The next protocol message; HEARTBEATs too."""
        if self.inbox:
            return self.inbox.popleft()
        deadline = time.monotonic() + seconds
        while not self._incoming:
            self._read(deadline)
        return self._incoming.popleft()

    def expect(self, *actions: Action, channel: str | None = None, seconds: float = PATIENCE) -> dict[str, Any]:
        """The next one of these actions; those passed over stay in the inbox, in order."""
        deadline = time.monotonic() + seconds
        passed: list[dict[str, Any]] = []
        try:
            while True:
                message = self.receive(max(0.0, deadline - time.monotonic()))
                if message["action"] in actions and channel in (None, message.get("channel")):
                    return message
                passed.append(message)
        finally:
            self.inbox.extendleft(reversed(passed))

    def deliveries(self, channel: str, count: int, seconds: float = PATIENCE) -> list[dict[str, Any]]:
        """The next so many messages of a channel, with ids, times and connection inherited as libraries do."""
        got: list[dict[str, Any]] = []
        while len(got) < count:
            got += self.members(self.expect(Action.MESSAGE, channel=channel, seconds=seconds))
        return got

    @staticmethod
    def members(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The messages of a MESSAGE, each on its own; ``channelSerial`` is added to each."""
        for index, member in enumerate(message["messages"]):
            inherited: dict[str, Any] = {"id": f"{message.get('id')}:{index}"}
            for name in ("connectionId", "timestamp", "channelSerial"):
                if name in message:
                    inherited[name] = message[name]
            yield {**inherited, **member}

    # the end

    def close(self) -> None:
        """Say CLOSE, wait for CLOSED."""
        with contextlib.suppress(GoneError):
            self.send({"action": Action.CLOSE})
            self.expect(Action.CLOSED)
        self.drop()

    def drop(self) -> None:
        """As if the power had gone: the connection's state stays with the server."""
        self._socket.close()
        self._ended = True

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    # bytes

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            self._ended = True
            raise GoneError(str(error)) from error

    def _read(self, deadline: float) -> None:
        """What has come, into the queue. Raises: GoneError, if that is the end."""
        if self._ended:
            raise GoneError("the connection has ended")
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data = self._socket.recv(1 << 18)
        except TimeoutError:
            raise
        except OSError as error:
            self._ended = True
            raise GoneError(str(error)) from error
        finally:
            if self._socket.fileno() >= 0:
                self._socket.settimeout(PATIENCE)
        if not data:
            self._ended = True
            raise GoneError("the server closed the connection")
        self._ws.receive_data(data)
        for event in self._ws.events():
            self._handle(event)

    def _handle(self, event: object) -> None:
        if isinstance(event, AcceptConnection):
            self._upgraded = True
        elif isinstance(event, RejectConnection):
            raise GoneError(f"HTTP {event.status_code} in place of an upgrade")
        elif isinstance(event, Message):
            self._partial.append(event.data)
            if event.message_finished:
                binary = isinstance(event, BytesMessage)
                whole = b"".join(self._partial) if binary else "".join(self._partial)  # type: ignore[arg-type]
                self._partial = []
                self._incoming.append(msgpack.unpackb(whole) if binary else json.loads(whole))
        elif isinstance(event, Ping):
            self._write(self._ws.send(event.response()))
        elif isinstance(event, CloseConnection):
            self._ended = True
            with contextlib.suppress(GoneError, LocalProtocolError):
                self._write(self._ws.send(event.response()))


def _small_window(address: Address, receive_buffer: int) -> socket.socket:
    """Connected, with so small a buffer from the beginning: later it would no longer decide the window."""
    one = socket.socket()
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        one.settimeout(PATIENCE)
        one.connect(address)
    except OSError:
        one.close()
        raise
    return one


def unique(prefix: str) -> str:
    """A text that nobody used before."""
    return f"{prefix}-{os.urandom(6).hex()}"
