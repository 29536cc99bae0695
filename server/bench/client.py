"""One connection of the load tester: connects, attaches, and reports what it receives to the run.

    opened -> CONNECTED -> (ATTACH -> ATTACHED) -> ready -> cut, dialled again, ready ...

Usual deliveries and ACKs do not come here: ``ext.load.receiver``, the plane's sink, handles them."""

from __future__ import annotations

from typing import Any, Protocol

import msgpack
import orjson

from ext.load.publisher import Publisher
from ext.load.receiver import Receiver
from ext.net.plane import Plane
from ext.net.socket import Socket
from server.realtime.actions import Action, Flag


class Run(Protocol):
    """The run that a client belongs to."""

    plane: Plane
    binary: bool

    def now_ms(self) -> int: ...
    def ready(self, client: Client) -> None:
        """The client is connected, and attached if it subscribes."""

    def failed(self, client: Client, why: str) -> None:
        """The client got no connection, or was refused."""

    def lost(self, client: Client, why: str) -> None:
        """The client was ready, and its connection ended unexpectedly."""

    def allowed(self, largest: int) -> None:
        """The server says how many bytes a publish may have. Raises: UsageError, if the run's have more."""

    def noted(self, text: str) -> None:
        """A note for the report."""


class Client:
    """A subscriber (with a channel), or a publisher (whose channel is in its template)."""

    __slots__ = (
        "channel",
        "connection_id",
        "dialled_ns",
        "lost",
        "publisher",
        "ready",
        "receiver",
        "resume",
        "run",
        "socket",
    )

    def __init__(self, run: Run, receiver: Receiver, publisher: Publisher | None, channel: str | None) -> None:
        self.run = run
        self.receiver = receiver
        self.publisher = publisher
        self.channel = channel
        self.resume: str | None = None  # the connection key, from CONNECTED
        self.connection_id: str | None = None
        self.socket: Socket | None = None
        self.ready = False
        self.lost = False  # until somebody dials again
        self.dialled_ns = 0

    def opened(self, descriptor: int, received: bytes) -> None:
        run = self.run
        self.socket = run.plane.add(
            descriptor,
            self,
            msgpack=run.binary,
            heartbeats=False,
            now_ms=run.now_ms(),
            sink=self.receiver,
            client=True,
        )
        if received:
            run.plane.feed(self.socket, received)

    def failed(self, why: str) -> None:
        self.lost = True
        self.run.failed(self, why)

    def cut(self) -> None:
        """End the connection abruptly, like a pulled cable."""
        self.ready = False
        if self.socket is not None:
            self.socket.abort()
            self.socket = None

    def gone(self, why: str) -> None:
        was_ready, self.ready, self.socket, self.lost = self.ready, False, None, True
        if was_ready:
            self.run.lost(self, why)
        else:
            self.run.failed(self, why)

    def receive(self, payload: bytes, binary: bool) -> None:
        """Handle a frame that the sink has not handled."""
        if self.receiver.offer(payload, binary):
            return
        try:
            message = msgpack.unpackb(payload) if binary else orjson.loads(payload)
        except (ValueError, msgpack.UnpackException):
            message = None
        if not _is_message(message):
            self._end(f"the server sent something other than a protocol message: {payload[:80]!r}")
            return
        action = message["action"]
        if action == Action.CONNECTED:
            self._connected(message)
        elif action == Action.ATTACHED:
            self._attached(message)
        elif action in (Action.ACK, Action.NACK) and self.publisher is not None:
            self._answered(action, message)
        elif action in (Action.ERROR, Action.DISCONNECTED, Action.DETACHED, Action.CLOSED):
            self._end(_told(message))

    def _connected(self, message: dict[str, Any]) -> None:
        details = message.get("connectionDetails") or {}
        self.resume = details.get("connectionKey") or message.get("connectionKey")
        before, self.connection_id = self.connection_id, message.get("connectionId")
        if self.ready:
            return  # an update of an earlier one
        if self.publisher is not None:
            self.run.allowed(details.get("maxMessageSize") or 0)
            if before is None:
                self._is_ready()
            elif before == self.connection_id:
                assert self.socket is not None
                self.socket.send_frames(self.publisher.unanswered_frames())
                self._is_ready()
            else:
                self._end(f"a connection was not resumed: {_told(message)}")
            return
        if message.get("error"):
            self.run.noted(f"connected, but {_told(message)}")
        attach: dict[str, Any] = {"action": Action.ATTACH, "channel": self.channel, "flags": int(Flag.SUBSCRIBE)}
        serial = self.receiver.channel_serial
        if serial is not None:
            attach["channelSerial"] = serial
            attach["flags"] |= Flag.ATTACH_RESUME
        self._send(attach)

    def _attached(self, message: dict[str, Any]) -> None:
        if self.receiver.channel_serial is None and "channelSerial" in message:
            self.receiver.start_from(message["channelSerial"])
        if message.get("error"):
            self.run.noted(f"attached, but {_told(message)}")
        if not self.ready:
            self._is_ready()

    def _answered(self, action: int, message: dict[str, Any]) -> None:
        assert self.publisher is not None
        first, count = message.get("msgSerial", 0), message.get("count", 1)
        if action == Action.ACK:
            self.publisher.acknowledge(first, count)
        else:
            self.publisher.refuse(first, count)
            self.run.noted(f"publishes are refused: {_told(message)}")

    def _is_ready(self) -> None:
        self.ready = True
        self.run.ready(self)

    def _send(self, message: dict[str, Any]) -> None:
        assert self.socket is not None
        self.socket.send(msgpack.packb(message) if self.run.binary else orjson.dumps(message))

    def _end(self, why: str) -> None:
        if self.socket is not None:
            self.socket.abort()
        self.gone(why)


TYPES: dict[str, type] = {  # or null
    "channelSerial": str,
    "connectionDetails": dict,
    "connectionId": str,
    "connectionKey": str,
    "error": dict,
}


def _is_message(message: Any) -> bool:
    """Is it a protocol message, as far as the load tester reads it?"""
    if not isinstance(message, dict) or not isinstance(message.get("action"), int):
        return False
    if any(not isinstance(message.get(name, kind()), (kind, type(None))) for name, kind in TYPES.items()):
        return False
    details = message.get("connectionDetails") or {}
    key = details.get("connectionKey")
    counts = (message.get("msgSerial", 0), message.get("count", 1), details.get("maxMessageSize") or 0)
    return isinstance(key, (str, type(None))) and all(type(n) is int and 0 <= n < 1 << 53 for n in counts)


def _told(message: dict[str, Any]) -> str:
    error = message.get("error") or {}
    name = Action(message["action"]).name
    return f"{name} {error.get('code', '')} {error.get('message', 'without a reason')}".strip()
