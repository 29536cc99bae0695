"""The hot part of the wire in plain Python over orjson and msgpack, as a good engineer would write it."""

from __future__ import annotations

from typing import Any

import msgpack
import orjson

JSON = 0
_KEPT = ("id", "clientId", "name", "data", "encoding")
_KNOWN = frozenset([*_KEPT, "size", "timestamp", "connectionId", "action"])
_packer = msgpack.Packer()


class PlainPublish:
    __slots__ = ("channel", "client_ids", "count", "ids", "messages", "msg_serial", "size")

    def __init__(
        self, channel: str, msg_serial: int, count: int, size: int, ids: Any, client_ids: Any, messages: bytes
    ) -> None:
        self.channel = channel
        self.msg_serial = msg_serial
        self.count = count
        self.size = size
        self.ids = ids
        self.client_ids = client_ids
        self.messages = messages


def parse_publish(payload: bytes, wire: int) -> PlainPublish | None:
    message = orjson.loads(payload) if wire == JSON else msgpack.unpackb(payload)
    channel, msg_serial, messages = message.get("channel"), message.get("msgSerial"), message.get("messages")
    if message.get("action") != 15 or type(channel) is not str or type(msg_serial) is not int or not messages:
        return None
    kept, ids, client_ids, size = [], [], [], 0
    for member in messages:
        if not member.keys() <= _KNOWN or member.get("action"):
            return None
        neutral = {}
        for key in _KEPT:
            value = member.get(key)
            if value is None:
                continue
            if type(value) is str:
                if key != "id" and key != "encoding":
                    size += len(value) if value.isascii() else len(value.encode())
            elif type(value) is bytes and key == "data":
                size += len(value)
            else:
                return None
            neutral[key] = value
        if "id" in neutral:
            ids.append(neutral["id"])
        client_ids.append(neutral.get("clientId"))
        kept.append(neutral)
    named = tuple(client_ids) if any(client_ids) else None
    return PlainPublish(channel, msg_serial, len(kept), size, tuple(ids) or None, named, _packer.pack(kept))


class PlainEncoder:
    def __init__(self, wire: int, channel: str) -> None:
        self.wire = wire
        self.channel = channel

    def frame(self, serial: int, series: str, record: bytes) -> bytes:
        base_id, connection_id, client_id, _, kept = msgpack.unpackb(record)
        position = f"{serial >> 16:015d}-{serial & 0xFFFF:05d}@{series}"
        messages = []
        for index, message in enumerate(kept):
            out = {"id": f"{base_id}:{index}", **message, "action": 0, "serial": f"{position}:{index:03d}"}
            if client_id is not None:
                out.setdefault("clientId", client_id)
            messages.append(out)
        whole = {
            "action": 15,
            "channel": self.channel,
            "channelSerial": position,
            "id": base_id,
            "timestamp": serial >> 16,
            "messages": messages,
        }
        if connection_id is not None:
            whole["connectionId"] = connection_id
        payload = orjson.dumps(whole) if self.wire == JSON else _packer.pack(whole)
        size, first = len(payload), 0x81 if self.wire == JSON else 0x82
        if size < 126:
            return bytes((first, size)) + payload
        if size < 65_536:
            return bytes((first, 126)) + size.to_bytes(2, "big") + payload
        return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def ack_payload(wire: int, msg_serial: int, stored: list[tuple[int, str, int, int]]) -> bytes:
    res = []
    for serial, series, first, count in stored:
        position = f"{serial >> 16:015d}-{serial & 0xFFFF:05d}@{series}"
        res.append({"serials": [f"{position}:{index:03d}" for index in range(first, first + count)]})
    message = {"action": 1, "msgSerial": msg_serial, "count": len(stored), "res": res}
    packed: bytes = orjson.dumps(message) if wire == JSON else _packer.pack(message)
    return packed
