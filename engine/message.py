"""Parses messages of clients into records, and records back into messages: the slow, complete path.

    in    a decoded list of maps --publish_from--> Publish      every rule, every error with its field
    out   record --messages_from--> complete messages, as bytes     for history

Payloads are kept as text or bytes, with their encoding minus a trailing base64; so both formats can be served from
them. Source: Ably's protocol, messages, encodings and idempotent publishing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from engine import absent
from engine.errors import BadRequest, LimitExceeded
from engine.limits import UNCOUNTED_BYTES
from ext.log.author import Author
from ext.text.values import Unread
from ext.wire.neutral import Packer, is_finite
from ext.wire.publish import Publish
from ext.wire.record import DEEPEST
from ext.wire.stored import StoredMessages

JSON = 0
MAX_MESSAGES = 1000  # their index has three digits
_UPDATES = (1, 2, 5)


def too_many(count: int, most: int) -> LimitExceeded:
    """The error for too many messages in one publish."""
    return LimitExceeded(f"messages: {count} exceed the maximum of {most} in one publish", code=40034, status=400)


def check_client_ids(author: Author, client_ids: Iterable[str | None]) -> None:
    """Check whether its messages may have these clientIds. Raises: BadRequest 40012."""
    for client_id in client_ids:
        if not author.permits_client_id(client_id):
            raise BadRequest(f"clientId: {client_id!r} is not permitted by the credentials", code=40012)


def check_ids(author: Author, ids: Sequence[str]) -> None:
    """Check whether its messages may have these ids. Raises: BadRequest 40031."""
    for index, message_id in enumerate(ids):
        if not author.permits_id(message_id):
            raise BadRequest(
                f"messages[{index}].id: {message_id[:64]!r} has the form <connectionId>:<number>:<number>, which is"
                " reserved for publishes over that connection, or with its connectionKey",
                code=40031,
            )


def client_ids_of(messages: object) -> Iterator[str]:
    """The clientIds in the messages: their errors are reported before any others.

    Raises: BadRequest 40012, for an invalid one."""
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        client_id = message.get("clientId") if isinstance(message, dict) else None
        if client_id is not None:
            error = _wrong_text(message, "clientId", 40012, index)
            if error is not None:
                raise error
            yield client_id


def ids_of(messages: object) -> list[str]:
    """The ids of the messages; empty for a message without one, or with an invalid one."""
    if not isinstance(messages, list):
        return []
    ids = (message.get("id") if isinstance(message, dict) else None for message in messages)
    return [message_id if isinstance(message_id, str) else "" for message_id in ids]


def publish_from(
    channel: str,
    msg_serial: int,
    messages: object,
    wire: int,
    *,
    max_messages: int = MAX_MESSAGES,
) -> Publish:
    """Check the messages of a publish, and convert them to the parts of a record.

    Raises: BadRequest or LimitExceeded with the protocol's code: 40013 data, 40031 ids, 40032 extras, 40012 clientId,
        40034 too many, 40000 anything else. Of several errors the first, in the protocol's order.
    """
    if isinstance(messages, Unread):
        raise LimitExceeded(f"messages: {messages.why}", code=40009, status=400)
    if not isinstance(messages, list):
        raise BadRequest("messages: must be an array of maps", code=40000)
    if not messages:
        raise BadRequest("messages: empty", code=40000)
    most = min(max_messages, MAX_MESSAGES)
    if len(messages) > most:
        raise too_many(len(messages), most)
    packer = Packer(_to_json, base64=wire == JSON)
    for message in messages:
        if not (isinstance(message, dict) and packer.add(message)):
            raise _wrong(messages, packer.count)
    _check_ids(packer.ids, packer.count)
    if packer.ephemeral not in (0, packer.count):
        raise BadRequest("messages[].extras.ephemeral: must be the same for all messages of a publish", code=40032)
    return Publish(
        channel,
        msg_serial,
        packer.count,
        packer.size,
        tuple(packer.ids) if packer.ids else None,
        tuple(packer.client_ids) if any(client_id is not None for client_id in packer.client_ids) else None,
        packer.messages(),
        ephemeral=bool(packer.ephemeral),
        privileged=packer.privileged,
    )


def _wrong(messages: list[Any], taken: int) -> BadRequest:
    """The first error, in the protocol's order, in messages of which a Packer accepted only ``taken``.

    One kind of error is checked in all messages before the next kind.
    """
    for look in (_wrong_kind, _wrong_client_id, _wrong_action, _wrong_id, _wrong_extras, _wrong_data, _wrong_name):
        for index in range(taken, len(messages)):
            error = look(messages[index], index)
            if error is not None:
                return error
        if look is _wrong_id:
            try:
                _check_ids([message["id"] for message in messages if message.get("id") is not None], len(messages))
            except BadRequest as error:
                return error.with_traceback(None)
    raise AssertionError("a message is invalid, but no check finds the fault")


def _wrong_kind(message: object, index: int) -> BadRequest | None:
    if isinstance(message, dict):
        return None
    return BadRequest(f"messages[{index}]: must be a map, got {_named(message)}", code=40000)


def _wrong_client_id(message: dict[Any, Any], index: int) -> BadRequest | None:
    return _wrong_text(message, "clientId", 40012, index)


def _wrong_action(message: dict[Any, Any], index: int) -> BadRequest | None:
    action = message.get("action")
    if action in (None, 0):
        return None
    if action in _UPDATES:  # 93002 would suggest that a namespace could enable them
        return absent.refusal(f"messages[{index}].action", absent.MUTABLE)
    return BadRequest(f"messages[{index}].action: must be 0 for a publish", code=40000)


def _wrong_id(message: dict[Any, Any], index: int) -> BadRequest | None:
    return _wrong_text(message, "id", 40031, index)


def _wrong_name(message: dict[Any, Any], index: int) -> BadRequest | None:
    return _wrong_text(message, "name", 40000, index)


def _wrong_text(message: dict[Any, Any], key: str, code: int, index: int) -> BadRequest | None:
    text = message.get(key)
    if text is None:
        return None
    if not isinstance(text, str):
        return BadRequest(f"messages[{index}].{key}: must be a string, got {_named(text)}", code=code)
    if not text and key in ("id", "clientId"):
        return BadRequest(f"messages[{index}].{key}: must not be empty", code=code)
    size = len(text.encode(errors="replace"))
    if key in ("id", "encoding") and size > UNCOUNTED_BYTES:
        return BadRequest(f"messages[{index}].{key}: {size} bytes exceed the maximum of {UNCOUNTED_BYTES}", code=code)
    if not text.isascii() and not _is_unicode(text):
        return BadRequest(f"messages[{index}].{key}: not valid Unicode", code=code)
    return None


def _wrong_data(message: dict[Any, Any], index: int) -> BadRequest | None:
    error = _wrong_text(message, "encoding", 40013, index)
    if error is not None:
        return error
    data = message.get("data")
    if isinstance(data, dict | list):
        if message.get("encoding"):
            return BadRequest(f"messages[{index}].data: a {type(data).__name__} cannot have an encoding", code=40013)
        try:
            _json(data)
        except ValueError as error:
            return BadRequest(f"messages[{index}].data: {error}", code=40013)
    elif isinstance(data, str):
        if not _is_unicode(data):
            return BadRequest(f"messages[{index}].data: not valid Unicode", code=40013)
    elif isinstance(data, Unread):
        return BadRequest(f"messages[{index}].data: {data.why}", code=40013)
    elif data is not None and not isinstance(data, bytes):
        return BadRequest(f"messages[{index}].data: must be a string, binary, a map or an array", code=40013)
    return None


def _wrong_extras(message: dict[Any, Any], index: int) -> BadRequest | None:
    extras = message.get("extras")
    if extras is None:
        return None
    if not isinstance(extras, dict):
        return BadRequest(f"messages[{index}].extras: must be a map, got {_named(extras)}", code=40032)
    if Packer(_to_json, base64=False).add({"extras": extras}):
        return None
    try:
        _json(extras)
    except ValueError as error:
        return BadRequest(f"messages[{index}].extras: {error}", code=40032)
    for key, feature in absent.EXTRAS.items():
        if extras.get(key) is not None:
            return absent.refusal(f"messages[{index}].extras.{key}", feature, code=40032)
    return BadRequest(f"messages[{index}].extras: must not be nested deeper than {DEEPEST}", code=40032)


def _named(value: object) -> str:
    """The name of its type, for the error."""
    return f"what {value.why}" if isinstance(value, Unread) else type(value).__name__


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_json(value: Any) -> bytes:
    """Raises: ValueError, for values that JSON cannot express: integers beyond 64 bits, keys that are not text."""
    try:
        return orjson.dumps(value, default=_base64)
    except TypeError as error:  # the base class of JSONEncodeError
        raise ValueError(str(error)) from error


def _json(value: Any) -> bytes:
    """The same. Raises: ValueError, for NaN and infinity, too."""
    text = _to_json(value)
    if not is_finite(value):
        raise ValueError("NaN and infinity have no JSON form")
    return text


def _base64(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Unread):
        raise TypeError(f"something in it {value.why}")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _check_ids(ids: list[str], count: int) -> None:
    if not ids:
        return
    if len(ids) != count:
        raise BadRequest("messages[].id: must be set for all messages of a publish or for none", code=40031)
    if count > 1:
        base, colon, _ = ids[0].rpartition(":")
        for index, message_id in enumerate(ids):
            if not colon or message_id != f"{base}:{index}":
                raise BadRequest(
                    f"messages[{index}].id: must be <base>:{index} in a publish of several messages, "
                    "with the same base for all",
                    code=40031,
                )


def messages_from(
    record: bytes, serial: int, series: str, wire: int, indexes: Sequence[int] | None = None
) -> list[bytes]:
    """The complete messages of an entry, each in this format.

    Args:
        indexes: the wanted ones, in the wanted order; None: all, oldest first.
    Raises: ValueError, if the record is malformed.
    """
    stored = StoredMessages(record, serial, series, wire)
    return [stored.message(index) for index in (range(len(stored)) if indexes is None else indexes)]
