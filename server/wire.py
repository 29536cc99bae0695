"""Any protocol message to bytes and back, with well-kept libraries: orjson and msgpack.

The hot two, MESSAGE and ACK, have a room of their own in ext; this one takes everything else, and what is unusual."""

from __future__ import annotations

from typing import Any

import msgpack
import orjson

from engine.errors import BadRequest
from ext.wire import is_msgpack

JSON, MSGPACK = 0, 1
DEEPEST = 100  # nesting of what a client sends; SDKs need about six


def decode_value(payload: bytes, wire: int) -> Any:
    """The value that the bytes are. A msgpack str that is no UTF-8 comes as bytes: old packers write binary so.

    Raises: ValueError, saying what is wrong.
    """
    if wire == JSON:
        return orjson.loads(payload)  # JSONDecodeError is a ValueError; its own bound on nesting is 1024
    if not is_msgpack(payload):  # asked first: the library makes room for all that an array announces
        raise ValueError("it is cut off, has more behind it, or holds a type that this protocol has no use for")
    try:
        value = msgpack.unpackb(payload, raw=False, unicode_errors="surrogateescape")
    except ValueError as error:  # its own ones among them; some have no text
        raise ValueError(str(error) or type(error).__name__) from error
    return _restored(value, 0)


def _restored(value: Any, depth: int) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode(errors="surrogateescape")
        return value
    if isinstance(value, dict):
        return {_restored(key, depth): _restored(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_restored(item, depth + 1) for item in value]
    return value


def decode(payload: bytes, wire: int) -> dict[str, Any]:
    """A protocol message. Raises: BadRequest 80013, when the bytes are none."""
    try:
        message = decode_value(payload, wire)
    except ValueError as error:
        name = "JSON" if wire == JSON else "msgpack"
        raise BadRequest(f"the frame is no {name}: {error}", code=80013) from error
    if not isinstance(message, dict):
        raise BadRequest(f"a frame must hold one map, got {type(message).__name__}", code=80013)
    return message


def encode(message: Any, wire: int) -> bytes:
    """Bytes of a protocol message or a body. Members that are None are left out, at every level: never a null."""
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
