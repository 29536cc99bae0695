"""Is a publish whose ids have been used the same publish again? Then it is a repeat; else somebody has taken its ids.

    first    the record of the entry that has used the ids           again    the record that this publish would have

What counts is what readers get: of each message name, data, encoding, extras, and the clientId, its own or its
sender's. Over which connection it came does not, nor how: a client whose connection could not be resumed sends again
over another one, or by REST. Two records of one publish differ in form where a message names what is its place's or
its sender's anyhow."""

from __future__ import annotations

from typing import Any

import msgpack

from engine.errors import PublishRejected

_CONTENT = ("name", "data", "encoding", "extras")


def repeats(first: bytes, index: int, again: bytes) -> bool:
    """Has the first one stored, from ``index`` on, just what this one would store?"""
    if index == 0 and first == again:  # the same connection, the same way: nearly always
        return True
    _, _, first_client, first_flags, held = msgpack.unpackb(first, raw=False)
    _, _, client, flags, messages = msgpack.unpackb(again, raw=False)
    if "id" not in messages[0] and (index or len(messages) != len(held)):
        return False  # its place in the connection is its id as a whole
    held = held[index : index + len(messages)]
    return bool(
        first_flags == flags
        and len(held) == len(messages)
        and all(
            _equal(_content(one, first_client), _content(two, client)) for one, two in zip(held, messages, strict=True)
        )
    )


def other_content(message_id: str) -> PublishRejected:
    """What a publisher is told whose id stands for something else."""
    return PublishRejected(
        f"messages[].id: {message_id[:64]!r} was already used for a message with different content on this channel",
        code=40031,
        status=400,
    )


def _content(message: dict[str, Any], client_id: str | None) -> list[Any]:
    return [message.get("clientId", client_id), *map(message.get, _CONTENT)]


def _equal(one: Any, other: Any) -> bool:
    """As JSON has it: true is not 1, and maps have no order."""
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
        )
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
