"""The wire, plainly: records and protocol messages by way of msgpack, orjson and dicts."""

from __future__ import annotations

import base64
import math
import random
from typing import Any

import msgpack
import orjson

JSON = 0
ORDER = ["id", "clientId", "name", "data", "encoding", "extras"]
DEEPEST = 64


def serial_text(serial: int, series: str) -> str:
    return f"{serial >> 16:015d}-{serial & 0xFFFF:05d}@{series}"


def jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    return [jsonable(item) for item in value] if isinstance(value, list) else value


def delivery(wire: int, channel: str, serial: int, series: str, record: bytes) -> dict[str, Any]:
    """The MESSAGE that a subscriber gets, as its decoder sees it."""
    base_id, connection_id, client_id, _, kept = msgpack.unpackb(record, raw=False)
    position = serial_text(serial, series)
    messages = []
    for index, message in enumerate(kept):
        out = {"id": f"{base_id}:{index}", "clientId": client_id, **message}
        if wire == JSON:
            if isinstance(out.get("data"), bytes):
                tokens = [token for token in [message.get("encoding"), "base64"] if token]
                out["encoding"] = "/".join(tokens)
            out = jsonable(out)
        out |= {"action": 0, "serial": f"{position}:{index:03d}"}
        messages.append({key: value for key, value in out.items() if value is not None})
    whole = {
        "action": 15,
        "channel": channel,
        "channelSerial": position,
        "id": base_id,
        "connectionId": connection_id,
        "timestamp": serial >> 16,
        "messages": messages,
    }
    return {key: value for key, value in whole.items() if value is not None}


def ack(msg_serial: int, stored: list[tuple[int, str, int, int]]) -> dict[str, Any]:
    return {
        "action": 1,
        "msgSerial": msg_serial,
        "count": len(stored),
        "res": [
            {"serials": [f"{serial_text(serial, series)}:{index:03d}" for index in range(first, first + count)]}
            for serial, series, first, count in stored
        ],
    }


def is_record(data: bytes) -> bool:
    """Is it, to the letter, what a record may be?"""
    try:
        value = msgpack.unpackb(data, raw=False, object_pairs_hook=Pairs, strict_map_key=False)
    except (ValueError, TypeError):
        return False
    if not isinstance(value, list) or isinstance(value, Pairs) or len(value) != 5:
        return False
    base_id, connection_id, client_id, flags, messages = value
    return (
        isinstance(base_id, str)
        and isinstance(connection_id, str | None)
        and isinstance(client_id, str | None)
        and isinstance(flags, int)
        and not isinstance(flags, bool)
        and 0 <= flags < 256
        and isinstance(messages, list)
        and not isinstance(messages, Pairs)
        and 0 < len(messages) <= 1000
        and all(map(_is_message, messages))
    )


class Pairs(list):  # type: ignore[type-arg]
    """A map as it was written: its pairs, repeated ones too."""


def _is_message(message: Any) -> bool:
    if not isinstance(message, Pairs) or not all(isinstance(key, str) for key, _ in message):
        return False
    keys = [key for key, _ in message]
    if keys != [key for key in ORDER if key in keys]:
        return False
    return all(
        isinstance(value, Pairs) and _is_plain(value, 1)
        if key == "extras"
        else isinstance(value, str | bytes if key == "data" else str)
        for key, value in message
    )


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, Pairs):
        return depth <= DEEPEST and all(isinstance(key, str) and _is_plain(item, depth + 1) for key, item in value)
    if isinstance(value, list):
        return depth <= DEEPEST and all(_is_plain(item, depth + 1) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | bytes | int | None)


def spelled(value: Any, choice: random.Random) -> str:
    """JSON text as another encoder might write it: with blanks, and with escapes where none are needed."""
    blank = choice.choice(["", "", "", " ", "\n\t", "\r "])
    if isinstance(value, dict):
        pairs = ",".join(spelled(key, choice) + ":" + spelled(item, choice) for key, item in value.items())
        return f"{blank}{{{pairs}{blank}}}{blank}"
    if isinstance(value, list):
        return f"{blank}[{','.join(spelled(item, choice) for item in value)}{blank}]"
    if isinstance(value, str):
        return f'{blank}"{"".join(_spelled(letter, choice) for letter in value)}"{blank}'
    return f"{blank}{orjson.dumps(value).decode()}{blank}"


def _spelled(letter: str, choice: random.Random) -> str:
    short = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    if letter in short and choice.random() < 0.5:
        return short[letter]
    if letter >= " " and letter not in '"\\' and choice.random() < 0.9:
        return letter
    units = letter.encode("utf-16-be")
    digits = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
    return "".join(f"\\u{choice.choice([text, text.upper()])}" for text in digits)
