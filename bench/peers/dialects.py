"""What is said to each peer: how a connection is opened, how one message is published, what an acknowledgement is.

    opening     steps: bytes that are sent, and bytes that are awaited before the next step
    template    the bytes of one publish, with the mark of pump.c where its payload begins
    ack         bytes that each acknowledgement on a publisher's connection holds exactly once; b'': there are none

Bytes only: the sockets are in scenarios.py. WebSocket frames go out under the mask key 0, which leaves payloads as they
are; a server unmasks them all the same."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.peers.pump import MARK, Template

KEY = "app.key:secret"


@dataclass(frozen=True, slots=True)
class Step:
    send: bytes
    expect: bytes = b""  # b"": nothing comes back


class Dialect(Protocol):
    """``number`` is the publisher's; a channel's name is of letters and digits, and no part of another name."""

    ack: bytes

    def prepare(self, channels: Sequence[str]) -> list[Step]: ...
    def subscriber(self, channel: str) -> list[Step]: ...
    def publisher(self, channel: str, number: int) -> list[Step]: ...
    def template(self, channel: str, number: int, size: int) -> Template: ...


def payload(size: int) -> bytes:
    """A mark, padded. Raises: ValueError, if it does not fit."""
    if size < len(MARK):
        raise ValueError(f"a payload has {len(MARK)} bytes or more, got {size}")
    return MARK + b"x" * (size - len(MARK))


def upgrade(path: str) -> Step:
    """The request for a WebSocket, and the end of its answer."""
    key = base64.b64encode(b"unbroken's bench").decode()
    request = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    return Step(request.encode(), b"\r\n\r\n")


def text_frame(content: bytes) -> bytes:
    size = len(content)
    if size < 126:
        return bytes((0x81, 0x80 | size)) + bytes(4) + content
    return b"\x81\xfe" + size.to_bytes(2, "big") + bytes(4) + content


class Unbroken:
    """Ably's protocol in JSON. One ACK may answer many publishes: it names the serials of each."""

    ack = b'"serials"'
    _width = 8  # digits of msgSerial: more than a run sends

    def prepare(self, channels: Sequence[str]) -> list[Step]:
        return []

    def _open(self) -> list[Step]:
        # CONNECTED may come in one piece with the answer to the upgrade: what is awaited is the later of the two.
        return [Step(upgrade(f"/?key={KEY}&format=json&v=5").send, b'"action":4')]

    def subscriber(self, channel: str) -> list[Step]:
        return [*self._open(), Step(self.attach(channel), b'"action":11')]

    def publisher(self, channel: str, number: int) -> list[Step]:
        return self._open()

    def attach(self, channel: str, cursor: str = "") -> bytes:
        message = {"action": 10, "channel": channel} | ({"channelSerial": cursor} if cursor else {})
        return text_frame(json.dumps(message).encode())

    def template(self, channel: str, number: int, size: int) -> Template:
        serial = b'"msgSerial":' + b"0".rjust(self._width)  # JSON lets blanks stand before a number
        content = b'{"action":15,"channel":"%b",%b,"messages":[{"data":"%b"}]}' % (
            channel.encode(),
            serial,
            payload(size),
        )
        message = text_frame(content)
        at = message.index(serial) + len(serial) - self._width
        return Template(message, "decimal", at, self._width)


class Nats:
    """Core NATS: nothing is acknowledged."""

    ack = b""
    hello = b'CONNECT {"verbose":false,"pedantic":false,"headers":false,"lang":"c","version":"1"}\r\n'

    def prepare(self, channels: Sequence[str]) -> list[Step]:
        return []

    def subscriber(self, channel: str) -> list[Step]:
        return [Step(self.hello + b"SUB %b 1\r\nPING\r\n" % channel.encode(), b"PONG\r\n")]

    def publisher(self, channel: str, number: int) -> list[Step]:
        return [Step(self.hello + b"PING\r\n", b"PONG\r\n")]

    def template(self, channel: str, number: int, size: int) -> Template:
        return Template(b"PUB %b %d\r\n%b\r\n" % (channel.encode(), size, payload(size)))


class JetStream(Nats):
    """One stream takes all channels; each publisher has an inbox where the acknowledgements of the stream arrive."""

    ack = b'"seq":'
    stream = "BENCH"

    def prepare(self, channels: Sequence[str]) -> list[Step]:
        return [
            Step(self.hello + b"SUB _INBOX.control 1\r\nPING\r\n", b"PONG\r\n"),
            Step(
                self._request(
                    f"$JS.API.STREAM.CREATE.{self.stream}",
                    {
                        "name": self.stream,
                        "subjects": list(channels),
                        "storage": "file",
                        "retention": "limits",
                        "max_consumers": -1,
                        "max_msgs": -1,
                        "max_bytes": -1,
                        "num_replicas": 1,
                    },
                ),
                b'"did_create":true',
            ),
        ]

    def publisher(self, channel: str, number: int) -> list[Step]:
        return [Step(self.hello + b"SUB _INBOX.p%d 1\r\nPING\r\n" % number, b"PONG\r\n")]

    def template(self, channel: str, number: int, size: int) -> Template:
        return Template(b"PUB %b _INBOX.p%d %d\r\n%b\r\n" % (channel.encode(), number, size, payload(size)))

    def reader(self) -> list[Step]:
        return [Step(self.hello + b"SUB replayed 1\r\nPING\r\n", b"PONG\r\n")]

    def read_all(self) -> bytes:
        """A push consumer from the first message on, without acknowledgements: the fastest way to read a stream."""
        config = {
            "deliver_subject": "replayed",
            "deliver_policy": "all",
            "ack_policy": "none",
            "replay_policy": "instant",
        }
        return self._request(f"$JS.API.CONSUMER.CREATE.{self.stream}", {"stream_name": self.stream, "config": config})

    def _request(self, subject: str, content: dict[str, object]) -> bytes:
        body = json.dumps(content).encode()
        return b"PUB %b _INBOX.control %d\r\n%b\r\n" % (subject.encode(), len(body), body)


class RedisPubSub:
    """PUBLISH is answered with the number of those who got it: an answer, though nothing is stored."""

    ack = b":"

    def prepare(self, channels: Sequence[str]) -> list[Step]:
        return []

    def subscriber(self, channel: str) -> list[Step]:
        return [Step(command("SUBSCRIBE", channel), b":1\r\n")]

    def publisher(self, channel: str, number: int) -> list[Step]:
        return [Step(command("PING"), b"+PONG\r\n")]

    def template(self, channel: str, number: int, size: int) -> Template:
        return Template(command("PUBLISH", channel, payload(size)))


class RedisStream(RedisPubSub):
    """XADD is answered with the entry's id, a bulk string."""

    ack = b"$"

    def template(self, channel: str, number: int, size: int) -> Template:
        return Template(command("XADD", channel, "*", "m", payload(size)))

    def read_all(self, channel: str) -> bytes:
        return command("XRANGE", channel, "-", "+")


def command(*parts: str | bytes) -> bytes:
    """A Redis command: an array of bulk strings."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded)


class Nchan:
    """WebSockets on both sides; each message that a publisher sends is answered with the state of its channel."""

    ack = b"queued messages:"

    def prepare(self, channels: Sequence[str]) -> list[Step]:
        return []

    def subscriber(self, channel: str) -> list[Step]:
        return [upgrade(f"/sub/{channel}")]

    def publisher(self, channel: str, number: int) -> list[Step]:
        return [upgrade(f"/pub/{channel}")]

    def template(self, channel: str, number: int, size: int) -> Template:
        return Template(text_frame(payload(size)))

    def read_all(self, channel: str) -> bytes:
        return upgrade(f"/replay/{channel}").send


class Mqtt:
    """MQTT 3.1.1. Subscribers have QoS 0: what differs is how the publisher's messages are taken."""

    def __init__(self, qos: int) -> None:
        self.qos = qos
        # PUBACK, its length, and the high byte of an id that stays below 256: the low byte is what is left out.
        self.ack = b"\x40\x02\x00" if qos else b""

    def prepare(self, channels: Sequence[str]) -> list[Step]:
        return []

    def subscriber(self, channel: str) -> list[Step]:
        subscribe = b"\0\1" + _mqtt_text(channel) + b"\0"
        return [self._connect(), Step(b"\x82" + _mqtt_length(len(subscribe)) + subscribe, b"\x90\x03\0\1\0")]

    def publisher(self, channel: str, number: int) -> list[Step]:
        return [self._connect()]

    def template(self, channel: str, number: int, size: int) -> Template:
        head = _mqtt_text(channel) + (b"\0\1" if self.qos else b"")
        length = _mqtt_length(len(head) + size)
        message = bytes((0x30 | self.qos << 1,)) + length + head + payload(size)
        return Template(message, "byte" if self.qos else "", len(length) + len(head))

    def _connect(self) -> Step:
        content = _mqtt_text("MQTT") + b"\x04\x02\0\0" + _mqtt_text("")  # clean, kept alive without pings
        return Step(b"\x10" + _mqtt_length(len(content)) + content, b"\x20\x02\0\0")


def _mqtt_text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _mqtt_length(length: int) -> bytes:
    found = bytearray()
    while True:
        length, digit = divmod(length, 128)
        found.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(found)


class SocketIO:
    """Engine.IO 4 over WebSocket; the server of socketio/server.js joins rooms, and answers each publish."""

    ack = b"430["

    def prepare(self, channels: Sequence[str]) -> list[Step]:
        return []

    def _open(self) -> list[Step]:
        # The answer to the upgrade and the session's opening may come in one piece.
        return [
            Step(upgrade("/socket.io/?EIO=4&transport=websocket").send, b'"sid"'),
            Step(text_frame(b"40"), b'40{"sid"'),
        ]

    def subscriber(self, channel: str) -> list[Step]:
        return [*self._open(), Step(text_frame(b'420["subscribe","%b"]' % channel.encode()), b"430[]")]

    def publisher(self, channel: str, number: int) -> list[Step]:
        return self._open()

    def template(self, channel: str, number: int, size: int) -> Template:
        return Template(text_frame(b'420["publish","%b","%b"]' % (channel.encode(), payload(size))))
