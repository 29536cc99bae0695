"""Messages as clients write them, to records and back: the slow and complete way.

    in    a decoded list of maps --publish_from--> Publish      every rule, every error with its field
    out   record --messages_from--> complete wire messages      for history

Payloads are kept as text or bytes, with the encoding less a trailing base64; so either format can be served from them.
Source: Ably's protocol, messages, encodings and idempotent publishing."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import msgpack
import orjson

from engine.errors import BadRequest, LimitExceeded
from engine.limits import UNCOUNTED_BYTES
from ext.publish import Publish
from ext.record import DEEPEST, record_ids
from ext.serial import message_serial_text

JSON = 0
MOST_MESSAGES = 1000  # their index has three digits
_UPDATES = (1, 2, 5)


def check_count(count: int, most: int) -> None:
    """Raises: LimitExceeded, 40034, if one publish may not have so many messages."""
    most = min(most, MOST_MESSAGES)
    if count > most:
        raise LimitExceeded(f"messages: {count} are more than {most} in one publish", code=40034, status=400)


def publish_from(
    channel: str,
    msg_serial: int,
    messages: object,
    wire: int,
    params: dict[str, Any] | None = None,
    *,
    max_messages: int = MOST_MESSAGES,
) -> Publish:
    """Check the messages of a publish, and make of them what a record holds.

    Raises: BadRequest or LimitExceeded with the code that the protocol has for it: 40013 data, 40031 ids, 40032 extras,
    40012 clientId, 40034 too many, 93002 updates, 40000 anything else.
    """
    if not isinstance(messages, list):
        raise BadRequest("messages: must be an array of maps", code=40000)
    if not messages:
        raise BadRequest("messages: there is none in it", code=40000)
    check_count(len(messages), max_messages)
    kept, ids, client_ids, size, ephemeral, privileged = [], [], [], 0, 0, False
    for index, message in enumerate(messages):
        neutral, extra = _neutral(message, f"messages[{index}]", wire)
        if "id" in neutral:
            ids.append(neutral["id"])
        client_ids.append(neutral.get("clientId"))
        extras = neutral.get("extras")
        if extras is not None:
            ephemeral += extras.get("ephemeral") is True
            privileged = privileged or "privileged" in extras
            extra += len(_json(extras))
        size += extra
        kept.append(neutral)
    _check_ids(ids, len(kept))
    if ephemeral not in (0, len(kept)):
        raise BadRequest("messages[].extras.ephemeral: all messages of a publish must be, or none", code=40032)
    return Publish(
        channel,
        msg_serial,
        len(kept),
        size,
        tuple(ids) if ids else None,
        tuple(client_ids) if any(client_id is not None for client_id in client_ids) else None,
        msgpack.packb(kept, use_bin_type=True),
        ephemeral=bool(ephemeral),
        privileged=privileged,
        params=params,
    )


def _neutral(message: object, field: str, wire: int) -> tuple[dict[str, Any], int]:
    """One message, only what is kept of it, in the record's order; and the bytes of its name, clientId and data."""
    if not isinstance(message, dict):
        raise BadRequest(f"{field}: must be a map, got {type(message).__name__}", code=40000)
    action = message.get("action")
    if action in _UPDATES:
        raise BadRequest(f"{field}.action: mutable messages are not enabled", code=93002)
    if action not in (None, 0):
        raise BadRequest(f"{field}.action: must be 0 for a publish", code=40000)
    kept: dict[str, Any] = {}
    for key, code in (("id", 40031), ("clientId", 40012), ("name", 40000)):
        text = message.get(key)
        if text is None:
            continue
        if not isinstance(text, str):
            raise BadRequest(f"{field}.{key}: must be a string, got {type(text).__name__}", code=code)
        if not text and key != "name":
            raise BadRequest(f"{field}.{key}: must not be empty", code=code)
        kept[key] = text
    _check_uncounted(kept.get("id"), f"{field}.id", 40031)
    encoding = message.get("encoding")
    if encoding is not None and not isinstance(encoding, str):
        raise BadRequest(f"{field}.encoding: must be a string, got {type(encoding).__name__}", code=40013)
    _check_uncounted(encoding, f"{field}.encoding", 40013)
    data, encoding = _payload(message.get("data"), encoding, field, wire)
    if data is not None:
        kept["data"] = data
    if encoding is not None:
        kept["encoding"] = encoding
    extras = _extras(message.get("extras"), f"{field}.extras")
    if extras:
        kept["extras"] = extras
    return kept, sum(_bytes(kept.get(key)) for key in ("name", "clientId", "data"))


def _check_uncounted(text: str | None, field: str, code: int) -> None:
    if _bytes(text) > UNCOUNTED_BYTES:
        raise BadRequest(f"{field}: {_bytes(text)} bytes are more than {UNCOUNTED_BYTES}", code=code)


def _extras(extras: object, field: str) -> dict[str, Any] | None:
    """What is kept of them: no deltas, which are the server's to make, and no nulls, which no reader is to get."""
    if extras is None:
        return None
    if not isinstance(extras, dict):
        raise BadRequest(f"{field}: must be a map, got {type(extras).__name__}", code=40032)
    try:
        _json(extras)
    except ValueError as error:
        raise BadRequest(f"{field}: {error}", code=40032) from error
    if _nesting(extras) > DEEPEST:
        raise BadRequest(f"{field}: must not be nested deeper than {DEEPEST}", code=40032)
    kept: dict[str, Any] = _without_nulls({key: value for key, value in extras.items() if key != "delta"})
    return kept


def _payload(data: Any, encoding: str | None, field: str, wire: int) -> tuple[str | bytes | None, str | None]:
    if data is None:
        return None, encoding
    if isinstance(data, bool | int | float):
        raise BadRequest(f"{field}.data: must be a string, binary, a map or an array", code=40013)
    if isinstance(data, dict | list):
        if encoding:
            raise BadRequest(f"{field}.data: a {type(data).__name__} cannot have an encoding", code=40013)
        try:
            return _json(data).decode(), "json"
        except ValueError as error:
            raise BadRequest(f"{field}.data: {error}", code=40013) from error
    if not isinstance(data, str | bytes):
        raise BadRequest(f"{field}.data: must be a string, binary, a map or an array", code=40013)
    if wire == JSON and isinstance(data, str) and encoding is not None:
        rest, _, last = encoding.rpartition("/")
        if last == "base64":
            decoded = _from_base64(data)
            if decoded is not None:
                return decoded, rest or None
    return data, encoding


def _json(value: Any) -> bytes:
    """Raises: ValueError, for what JSON has no way to say: NaN, integers beyond 64 bits, keys that are no text."""
    try:
        text = orjson.dumps(value, default=_base64)
    except TypeError as error:  # its JSONEncodeError is one
        raise ValueError(str(error)) from error
    if not _finite(value):
        raise ValueError("NaN and infinity have no JSON form")
    return text


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _nesting(value: Any) -> int:
    """How many maps and arrays there are in one another."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_nesting, value), default=0) if isinstance(value, list) else 0


def _without_nulls(value: Any) -> Any:
    """Without the members of maps that are null; in an array a null has a place, and keeps it."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _base64(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _from_base64(text: str) -> bytes | None:
    """None, if encoding would not give this very text again. It stays as it came: its receivers may know what it is."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return data if base64.b64encode(data).decode() == text else None


def _bytes(value: str | bytes | None) -> int:
    if value is None:
        return 0
    return len(value.encode()) if isinstance(value, str) else len(value)


def _check_ids(ids: list[str], count: int) -> None:
    if not ids:
        return
    if len(ids) != count:
        raise BadRequest("messages[].id: either all messages of a publish have an id or none", code=40031)
    if count > 1:
        base, colon, _ = ids[0].rpartition(":")
        for index, message_id in enumerate(ids):
            if not colon or message_id != f"{base}:{index}":
                raise BadRequest(
                    f"messages[{index}].id: must be <base>:{index} in a publish of several, with one base for all",
                    code=40031,
                )


def messages_from(
    record: bytes, serial: int, series: str, wire: int, indexes: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """The complete messages of an entry, with data and encoding as this format writes them.

    Args:
        indexes: of those that are wanted, in the order in which they are wanted; None: all, oldest first.
    Raises: ValueError, if the record is malformed.
    """
    ids = record_ids(record)
    _, connection_id, default_client_id, _, kept = msgpack.unpackb(record, raw=False)
    return [
        _complete(kept[index], ids[index], connection_id, default_client_id, serial, series, index, wire)
        for index in (range(len(kept)) if indexes is None else indexes)
    ]


def _complete(
    message: dict[str, Any],
    message_id: str,
    connection_id: str | None,
    default_client_id: str | None,
    serial: int,
    series: str,
    index: int,
    wire: int,
) -> dict[str, Any]:
    name, timestamp = message_serial_text(serial, series, index), serial >> 16
    complete: dict[str, Any] = {"id": message_id}
    if connection_id is not None:
        complete["connectionId"] = connection_id
    client_id = message.get("clientId", default_client_id)
    if client_id is not None:
        complete["clientId"] = client_id
    complete["timestamp"] = timestamp
    complete |= {key: message[key] for key in ("name", "data", "encoding", "extras") if key in message}
    if wire == JSON:
        data = complete.get("data")
        if isinstance(data, bytes):
            complete["data"] = base64.b64encode(data).decode()
            complete["encoding"] = f"{message['encoding']}/base64" if message.get("encoding") else "base64"
        if "extras" in complete:
            complete["extras"] = orjson.loads(_json(complete["extras"]))
    return complete | {"action": 0, "serial": name, "version": {"serial": name, "timestamp": timestamp}}
