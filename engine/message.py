"""Messages as clients write them, to records and back: the slow and complete way.

    in    a decoded list of maps --publish_from--> Publish      every rule, every error with its field
    out   record --messages_from--> complete wire messages      for history

Payloads are kept as text or bytes, with the encoding less a trailing base64; so either format can be served from them.
Source: Ably's protocol, messages, encodings and idempotent publishing."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgpack
import orjson

from engine.errors import BadRequest, LimitExceeded
from ext.publish import Publish
from ext.serial import message_serial_text

JSON = 0
MOST_MESSAGES = 1000
_UPDATES = (1, 2, 5)


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
    if len(messages) > min(max_messages, MOST_MESSAGES):
        most = min(max_messages, MOST_MESSAGES)
        raise LimitExceeded(f"messages: {len(messages)} are more than {most} in one publish", code=40034, status=400)
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
            extra += len(orjson.dumps(extras, default=_base64))
        size += extra
        kept.append(neutral)
    _check_ids(ids, len(kept))
    if ephemeral not in (0, len(kept)):
        raise BadRequest("messages[].extras.ephemeral: either all messages of a publish are ephemeral or none", code=40032)
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
        raise BadRequest(f"{field}.action: messages of this channel cannot be changed", code=93002)
    if action not in (None, 0):
        raise BadRequest(f"{field}.action: must be 0 for a publish, got {action!r}", code=40000)
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
    encoding = message.get("encoding")
    if encoding is not None and not isinstance(encoding, str):
        raise BadRequest(f"{field}.encoding: must be a string, got {type(encoding).__name__}", code=40013)
    data, encoding = _payload(message.get("data"), encoding, field, wire)
    if data is not None:
        kept["data"] = data
    if encoding is not None:
        kept["encoding"] = encoding
    extras = message.get("extras")
    if extras is not None:
        if not isinstance(extras, dict):
            raise BadRequest(f"{field}.extras: must be a map, got {type(extras).__name__}", code=40032)
        extras = {key: value for key, value in extras.items() if key != "delta"}  # deltas are the server's to make
        if extras:
            try:
                orjson.dumps(extras, default=_base64)
            except (orjson.JSONEncodeError, TypeError) as error:
                raise BadRequest(f"{field}.extras: {error}", code=40032) from error
            kept["extras"] = extras
    return kept, sum(_bytes(kept.get(key)) for key in ("name", "clientId", "data"))


def _payload(data: Any, encoding: str | None, field: str, wire: int) -> tuple[str | bytes | None, str | None]:
    if data is None:
        return None, encoding
    if isinstance(data, bool | int | float):
        raise BadRequest(f"{field}.data: must be a string, binary, a map or an array", code=40013)
    if isinstance(data, dict | list):
        if encoding:
            raise BadRequest(f"{field}.data: a {type(data).__name__} cannot have an encoding", code=40013)
        try:
            return orjson.dumps(data, default=_base64).decode(), "json"
        except (orjson.JSONEncodeError, TypeError) as error:
            raise BadRequest(f"{field}.data: {error}", code=40013) from error
    if not isinstance(data, str | bytes):
        raise BadRequest(f"{field}.data: must be a string, binary, a map or an array", code=40013)
    if wire == JSON and isinstance(data, str) and encoding is not None:
        rest, slash, last = encoding.rpartition("/")
        if last == "base64":
            try:
                return base64.b64decode(data, validate=True), rest if slash else None
            except (binascii.Error, ValueError):
                return data, encoding  # as it came: its receivers may know what it is
    return data, encoding


def _base64(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no JSON form")


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
                wanted = f"{base}:{index}" if colon else f"<base>:{index}"
                raise BadRequest(f"messages[{index}].id: must be {wanted!r} in a publish of several", code=40031)


def messages_from(record: bytes, serial: int, series: str, wire: int) -> list[dict[str, Any]]:
    """The complete messages of an entry, oldest first, with data and encoding as this format writes them."""
    base_id, connection_id, default_client_id, _, kept = msgpack.unpackb(record, raw=False)
    timestamp, found = serial >> 16, []
    for index, message in enumerate(kept):
        name = message_serial_text(serial, series, index)
        complete: dict[str, Any] = {"id": message.get("id", f"{base_id}:{index}")}
        if connection_id is not None:
            complete["connectionId"] = connection_id
        client_id = message.get("clientId", default_client_id)
        if client_id is not None:
            complete["clientId"] = client_id
        complete["timestamp"] = timestamp
        for key in ("name", "data", "encoding", "extras"):
            if key in message:
                complete[key] = message[key]
        data = complete.get("data")
        if wire == JSON:
            if isinstance(data, bytes):
                complete["data"] = base64.b64encode(data).decode()
                complete["encoding"] = f"{message['encoding']}/base64" if message.get("encoding") else "base64"
            if "extras" in complete:
                complete["extras"] = orjson.loads(orjson.dumps(complete["extras"], default=_base64))
        complete |= {"action": 0, "serial": name, "version": {"serial": name, "timestamp": timestamp}}
        found.append(complete)
    return found
