"""A speaking client: protocol messages in JSON or msgpack, and what comes back; blocking, and fast enough for crowds.

    client = WsClient(address, format="msgpack")        connects, and has read CONNECTED
    client.attach("room")                                the ATTACHED
    client.publish("room", {"data": "x"})                the serials of its ACK
    client.send_messages("room", [{"data": "x"}])        its msgSerial, at once
    client.expect(Action.ACK)                            the next ACK; what came before it waits in the inbox
    client.pour("room", "a", "b")                        many publishes in one write, at once
    client.acked(2)                                      their serials
    client.drop()                                        the socket is gone, nothing said

Its bytes are tests/peer.py's, its msgpack and JSON are the common libraries': nothing of the server's own code is in
it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import ssl
import time
import urllib.parse
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import msgpack
import orjson

from tests.harness import KEY, Address, Server, history
from tests.peer import ACCEPT, CLOSE, FORMATS, PATIENCE, PING, PONG, TEXT, Peer, frame, framed, upgrade_to
from tests.peer import Action as Action
from tests.peer import GoneError as GoneError

RESUMED, ATTACH_RESUME, HAS_BACKLOG = 4, 32, 2


class RefusedError(Exception):
    """The server said ERROR, with the channel or for the whole connection."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.code = error.get("code")
        self.status = error.get("statusCode")


class WsClient:
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
        patience: float = PATIENCE,
        **params: str,
    ) -> None:
        query = {"format": format, "v": "6", **({} if key is None else {"key": key}), **params}
        given = {**(headers or {}), **({} if authorization is None else {"authorization": authorization})}
        self.format = format
        self.patience = patience
        self.inbox: deque[dict[str, Any]] = deque()
        self.next_serial = 0
        self.closed_with: int | None = None  # the code of the server's close frame
        self._incoming: deque[dict[str, Any]] = deque()
        self._ended = False
        self._peer = Peer(address, tls, receive_buffer=receive_buffer, patience=patience)
        self.socket = self._peer.socket
        try:
            more = "".join(f"{name}: {value}\r\n" for name, value in given.items())
            self._peer.send(upgrade_to("/?" + urllib.parse.urlencode(query), more))
            status, answer = self._peer.head()
            if status != 101:
                raise GoneError(f"HTTP {status} in place of an upgrade")
            assert answer["sec-websocket-accept"] == ACCEPT, answer
            self._take()  # what came with it
            self.connected = self._greeting() if greet else {}
        except BaseException:
            self._peer.close()
            raise

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

    def send(self, *messages: Mapping[str, Any]) -> None:
        """Protocol messages, as they are; several go out in one write."""
        contents = [msgpack.packb(each) if self.format == "msgpack" else json.dumps(each) for each in messages]
        self.write(b"".join(map(_masked, contents)))

    def send_raw(self, data: str | bytes) -> None:
        """One frame with whatever content."""
        self.write(_masked(data))

    def write(self, data: bytes) -> None:
        """Bytes that need not be a frame at all."""
        if self._ended:  # the server has said goodbye
            raise GoneError("the connection has ended")
        try:
            self._peer.send(data)
        except GoneError:
            self._ended = True
            raise

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

    def pour(self, channel: str, *datas: str, **fields: Any) -> None:
        """Each a publish of its own, all in one write; doesn't wait for any ACK."""
        frames = []
        for serial, data in enumerate(datas, self.next_serial):
            messages = [{"data": data, **fields}]
            out = {"action": 15, "channel": channel, "msgSerial": serial, "messages": messages}
            frames.append(_masked(msgpack.packb(out) if self.format == "msgpack" else orjson.dumps(out).decode()))
        self.next_serial += len(datas)
        self.write(b"".join(frames))

    def publish(self, channel: str, *messages: Mapping[str, Any], msg_serial: int | None = None) -> list[str]:
        """Publish and wait: the serials that the ACK names. Raises: RefusedError, with the NACK's error."""
        msg_serial = self.send_messages(channel, messages, msg_serial=msg_serial)
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

    def receive(self, seconds: float | None = None) -> dict[str, Any]:
        """The next protocol message; HEARTBEATs too."""
        if self.inbox:
            return self.inbox.popleft()
        deadline = time.monotonic() + (self.patience if seconds is None else seconds)
        while not self._incoming:
            self._read(deadline)
        return self._incoming.popleft()

    def expect(self, *actions: int, channel: str | None = None, seconds: float | None = None) -> dict[str, Any]:
        """The next one of these actions; those passed over stay in the inbox, in order."""
        deadline = time.monotonic() + (self.patience if seconds is None else seconds)
        passed: list[dict[str, Any]] = []
        try:
            while True:
                message = self.receive(max(0.0, deadline - time.monotonic()))
                if message["action"] in actions and channel in (None, message.get("channel")):
                    return message
                passed.append(message)
        finally:
            self.inbox.extendleft(reversed(passed))

    def skip_to(self, *actions: int) -> dict[str, Any]:
        """The next one of these actions; those passed over are forgotten, however many they are."""
        while (message := self.receive())["action"] not in actions:
            pass
        return message

    def acked(self, count: int) -> list[str]:
        """The serials of the next so many publishes of one message, in order; what else comes is forgotten."""
        serials: list[str] = []
        while len(serials) < count:
            answer = self.skip_to(Action.ACK, Action.NACK)
            assert answer["action"] == Action.ACK, answer
            serials += [each["serials"][0] for each in answer["res"]]
        return serials

    def deliveries(self, channel: str, count: int, seconds: float | None = None) -> list[dict[str, Any]]:
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
        self._peer.close()
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def _read(self, deadline: float) -> None:
        """What has come, into the queue. Raises: GoneError, if that is the end."""
        if self._ended:
            raise GoneError("the connection has ended")
        try:
            if not self._peer.read(deadline - time.monotonic()):
                raise GoneError("the server closed the connection")
        except GoneError:
            self._ended = True
            raise
        self._take()

    def _take(self) -> None:
        for opcode, payload in self._peer.frames():
            if opcode in FORMATS:
                assert FORMATS[opcode] == self.format or self.format not in FORMATS.values(), payload
                self._incoming.append(orjson.loads(payload) if opcode == TEXT else msgpack.unpackb(payload))
            elif opcode == PING:
                self._answer(PONG, payload)
            elif opcode == CLOSE:
                self._ended = True
                self.closed_with = int.from_bytes(payload[:2], "big")
                self._answer(CLOSE, payload)

    def _answer(self, opcode: int, payload: bytes) -> None:
        with contextlib.suppress(GoneError):  # whoever reads on is told
            self._peer.send(frame(opcode, payload))


def _masked(content: str | bytes) -> bytes:
    return framed(content, mask=random.randbytes(4))


def unique(prefix: str) -> str:
    """A text that nobody used before."""
    return f"{prefix}-{os.urandom(6).hex()}"


@dataclass(frozen=True, slots=True)
class Served:
    """A server, and what a client needs to speak to it."""

    server: Server
    tls: ssl.SSLContext | None

    def peer(self) -> Peer:
        return Peer(self.server.address, self.tls)

    def client(self, format: str = "json", **options: Any) -> WsClient:
        """``options`` are those of the client."""
        return WsClient(self.server.address, format=format, tls=self.tls, **options)

    def history(self, channel: str) -> list[dict[str, Any]]:
        return history(self.server.address, channel, tls=self.tls)
