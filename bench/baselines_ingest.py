"""A publish from its bytes to a staged entry, and from there to the log and the ACK, as plain Python does it.

orjson parses and writes; ids go into a dict; entries are small objects with slots. The outcome is that of the compiled
way: the same records, the same ACKs."""

from __future__ import annotations

from collections import deque

import msgpack
import orjson

from engine.channel import Channel
from ext.log.entry import Entry as LogEntry
from ext.text.serial import SerialClock


class Entry:
    __slots__ = ("channel", "count", "msg_serial", "queue", "record", "serial")

    def __init__(self, channel, serial, record, count, queue, msg_serial):
        self.channel = channel
        self.serial = serial
        self.record = record
        self.count = count
        self.queue = queue
        self.msg_serial = msg_serial


class PlainPath:
    """One client's publishes to one channel."""

    def __init__(self, channel: Channel, connection_id: str) -> None:
        self.clock = SerialClock()
        self.now_ms = 0
        self.known: dict[str, tuple[int, int]] = {}
        self.pending: list[Entry] = []
        self.answers: deque[tuple[int, int, int]] = deque()
        self._channel = channel
        self._connection_id = connection_id

    def offer(self, payload: bytes, msgpack_format: bool) -> None:
        message = msgpack.unpackb(payload) if msgpack_format else orjson.loads(payload)
        if message["action"] != 15 or message["channel"] != self._channel.name:
            raise ValueError("not a publish to this channel")
        serial = self.clock.next(self.now_ms)
        base = f"{self._connection_id}:{message['msgSerial']}"
        messages = message["messages"]
        for index, one in enumerate(messages):
            message_id = one.get("id") or f"{base}:{index}"
            if message_id in self.known:
                raise ValueError("a repeat")
            self.known[message_id] = (serial, index)
        record = msgpack.packb([base, self._connection_id, None, 0, messages])
        self.pending.append(Entry(self._channel, serial, record, len(messages), self.answers, message["msgSerial"]))

    def commit(self) -> None:
        """What the journal has done with by now: visible, and to be acknowledged."""
        pending, self.pending = self.pending, []
        for entry in pending:
            self._channel.reveal([LogEntry(entry.serial, entry.record, 1, 0, entry.count)])
            entry.queue.append((entry.msg_serial, entry.serial, entry.count))

    def acknowledge(self) -> bytes:
        """One ACK for all that has been committed."""
        first, results = self.answers[0][0], []
        for _, serial, count in self.answers:
            text = f"{serial >> 16:015d}-{serial & 65535:05d}@{self._channel.series}"
            results.append({"serials": [f"{text}:{index:03d}" for index in range(count)]})
        self.answers.clear()
        return orjson.dumps({"action": 1, "msgSerial": first, "count": len(results), "res": results})
