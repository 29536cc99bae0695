"""Any protocol message to bytes and back.

The two hot ones, MESSAGE and ACK, have modules of their own in ext (publish, wire); this one handles all others and
unusual forms. ext/text/values.pyx reads input, within bounds; orjson and msgpack write output."""

from __future__ import annotations

from typing import Any

import msgpack
import orjson

from engine.errors import BadRequest
from engine.limits import INPUT_VALUES
from ext.text import values
from ext.text.values import Unread

JSON, MSGPACK = 0, 1


def decode_value(payload: bytes, wire: int, most: int = INPUT_VALUES) -> Any:
    """Decode bytes to a value. A msgpack str that is not UTF-8 becomes bytes: old packers write binary that way.

    Raises: ValueError, saying what is wrong; OverflowError, when it contains more than ``most`` values.
    """
    return values.decode(payload, wire, most=most)


def decode(payload: bytes, wire: int) -> dict[str, Any]:
    """Decode a protocol message; a member with too many values becomes an Unread.

    Raises: BadRequest 80013, when the bytes are not a protocol message.
    """
    try:
        message, odd = values.decode_message(payload, wire, most=INPUT_VALUES)
    except ValueError as error:
        name = "JSON" if wire == JSON else "msgpack"
        raise BadRequest(f"the frame is not valid {name}: {error}", code=80013) from error
    if not isinstance(message, dict):
        found = message.why if isinstance(message, Unread) else f"got {type(message).__name__}"
        raise BadRequest(f"a frame must contain one map, {found}", code=80013)
    if odd and "action" not in message:  # nothing suggests that it is meant for this protocol
        raise BadRequest("action: missing; must be a whole number", code=80013)
    return message


def encode(message: Any, wire: int) -> bytes:
    """Encode a protocol message or a body. Members that are None are left out, at every level: never a null."""
    present = _present(message)
    if wire == JSON:
        return orjson.dumps(present)
    packed: bytes = msgpack.packb(present, use_bin_type=True)
    return packed


def _present(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _present(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_present(item) for item in value]
    return value
