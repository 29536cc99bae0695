"""A client for tests with many messages: plain sockets, our own codec for speed, no threads.

Its frames carry the mask key 0, which is as good as any other, and leaves the bytes as they are."""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Iterator
from typing import Any

import orjson

from ext.wire.frame import PING, TEXT, FrameDecoder
from tests.checker import Attached, Delivered, SubscriberLog

KEY = "app1.key1:secret"
UPGRADE = (
    "GET /?key={key}&format=json&v=5&heartbeats=true{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(message: dict[str, Any]) -> bytes:
    payload = orjson.dumps(message)
    size = len(payload)
    if size < 126:
        head = bytes((0x81, 0x80 | size))
    elif size < 65536:
        head = b"\x81\xfe" + size.to_bytes(2, "big")
    else:
        head = b"\x81\xff" + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


class LeanClient:
    """Blocking, with a timeout; ``messages`` reads what comes."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        query: str = "",
        receive_buffer: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(30)
        self.socket.connect(address)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=address[0])
        self.socket.sendall(UPGRADE.format(key=KEY, query=query).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.socket.recv(1)
        assert head.startswith(b"HTTP/1.1 101"), head
        self._decoder = FrameDecoder(1 << 24, client_side=True)
        self._waiting: deque[dict[str, Any]] = deque()
        self.connected = self.expect(4)
        self.serial = 0

    def __enter__(self) -> LeanClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *messages: dict[str, Any]) -> None:
        self.socket.sendall(b"".join(map(frame, messages)))

    def publish(self, channel: str, *payloads: str, **fields: Any) -> None:
        """Each payload is a publish of its own; does not wait for the ACK."""
        frames = []
        for payload in payloads:
            frames.append(
                {"action": 15, "channel": channel, "msgSerial": self.serial, "messages": [{"data": payload, **fields}]}
            )
            self.serial += 1
        self.send(*frames)

    def read(self) -> bool:
        """Take what has arrived, waiting for something; False at the end of the connection."""
        data = self.socket.recv(1 << 20)
        for event in self._decoder.receive(data):
            if event.kind == TEXT:
                self._waiting.append(orjson.loads(event.payload))
            elif event.kind == PING:
                self.socket.sendall(bytes((0x8A, 0x80 | len(event.payload))) + b"\0\0\0\0" + event.payload)
        return bool(data)

    def messages(self) -> Iterator[dict[str, Any]]:
        """Protocol messages, without end: the caller knows when it has seen enough."""
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if not self.read():
                return

    def expect(self, *actions: int) -> dict[str, Any]:
        """The next message with one of these actions; others are passed over."""
        for message in self.messages():
            if message["action"] in actions:
                return message
        raise ConnectionError("the server has closed the connection")

    def acked(self, count: int) -> list[str]:
        """Serials of the next ``count`` publishes' first messages, in order."""
        serials: list[str] = []
        while len(serials) < count:
            message = self.expect(1, 2)
            assert message["action"] == 1, message
            serials += [entry["serials"][0] for entry in message["res"]]
        return serials


def subscriber_log(name: str, heard: list[dict[str, Any]]) -> SubscriberLog:
    """What a subscriber heard of one channel, for the checker; a message's payload is its mark."""
    events: list[Attached | Delivered] = []
    for message in heard:
        if message["action"] == 11:
            events.append(Attached(bool(message["flags"] & 4), message["channelSerial"]))
        elif message["action"] == 15:
            for member in message["messages"]:
                events.append(Delivered(member["data"], member["serial"], message["channelSerial"]))
    return SubscriberLog(name, events)
