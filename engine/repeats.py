"""Decides whether a publish with used ids is the same publish again, a repeat, or a different one with the same ids.

    first    the record of the entry with these ids                  again    the record that this publish would have

The comparison covers what readers get: of each message name, data, encoding, extras, and the clientId, its own or its
sender's. The connection and transport do not count: a client that could not resume its connection resends over another
one, or by REST. Two records of one publish may differ in form, if a message states values that its position or its
sender implies."""

from __future__ import annotations

from typing import Any

import msgpack

from engine.errors import PublishRejected

_CONTENT = ("name", "data", "encoding", "extras")


def repeats(first: bytes, index: int, again: bytes) -> bool:
    """Did the first publish store, from ``index`` on, exactly what this one would store?"""
    if index == 0 and first == again:  # the same connection, the same way: nearly always
        return True
    _, _, first_client, first_flags, held = msgpack.unpackb(first, raw=False)
    _, _, client, flags, messages = msgpack.unpackb(again, raw=False)
    if "id" not in messages[0] and (index or len(messages) != len(held)):
        return False  # the id is its position in the connection as a whole
    held = held[index : index + len(messages)]
    return bool(
        first_flags == flags
        and len(held) == len(messages)
        and all(
            _equal(_content(one, first_client), _content(two, client)) for one, two in zip(held, messages, strict=True)
        )
    )


def other_content(message_id: str) -> PublishRejected:
    """The error for a publish whose id belongs to a different message."""
    return PublishRejected(
        f"messages[].id: {message_id[:64]!r} was already used for a message with different content on this channel",
        code=40031,
        status=400,
    )


def _content(message: dict[str, Any], client_id: str | None) -> list[Any]:
    return [message.get("clientId", client_id), *map(message.get, _CONTENT)]


def _equal(one: Any, other: Any) -> bool:
    """Equality as in JSON: true is not 1, and maps have no order."""
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
        )
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
