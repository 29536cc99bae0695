"""Capabilities: which operations are allowed on which channels.

    {"room:*": ["publish", "subscribe"], "[meta]*": ["subscribe"]}

    resource   segments between colons; ``*`` as the last is one or more, as an inner one exactly one, within one literal
    qualifier  [meta], [queue] ..: its resources match only names with the same; [*]* matches everything

Source: Ably's capability language, with its rules for intersection."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from typing import Any

import orjson

from engine import limits
from engine.errors import AuthError, BadRequest


class Operation(IntFlag):
    SUBSCRIBE = 1 << 0
    PUBLISH = 1 << 1
    PRESENCE = 1 << 2
    HISTORY = 1 << 3
    STATS = 1 << 4
    CHANNEL_METADATA = 1 << 5
    PUSH_SUBSCRIBE = 1 << 6
    PUSH_ADMIN = 1 << 7
    PRIVILEGED_HEADERS = 1 << 8
    OBJECT_SUBSCRIBE = 1 << 9
    OBJECT_PUBLISH = 1 << 10
    ANNOTATION_SUBSCRIBE = 1 << 11
    ANNOTATION_PUBLISH = 1 << 12
    MESSAGE_UPDATE_OWN = 1 << 13
    MESSAGE_UPDATE_ANY = 1 << 14
    MESSAGE_DELETE_OWN = 1 << 15
    MESSAGE_DELETE_ANY = 1 << 16


NAMES = {operation.name.lower().replace("_", "-"): int(operation) for operation in Operation if operation.name}
ALL = sum(NAMES.values())
FULL_TEXT = '{"*":["*"]}'

# A resource taken apart: its qualifier ("" for none, "*" for any), and its segments.
Resource = tuple[str, tuple[str, ...]]


def split_resource(text: str) -> Resource:
    """Params in the qualifier are no part of the name: ``[?rewind=1]room`` is ``room``, ``[meta?x=1]log`` is ``[meta]log``."""
    qualifier = ""
    if text.startswith("["):
        end = text.find("]")
        if end > 0:
            qualifier, text = text[1:end].split("?", 1)[0], text[end + 1 :]
    return qualifier, tuple(text.split(":"))


def matches(resource: Resource, name: Resource) -> bool:
    """Does the resource cover this name (or this other resource, wildcards and all)?"""
    qualifier, segments = resource
    if qualifier != "*" and qualifier != name[0]:
        return False
    return _covers(segments, name[1])


def _covers(pattern: tuple[str, ...], segments: tuple[str, ...]) -> bool:
    open_end = pattern[-1] == "*"
    if len(segments) < len(pattern) or (len(segments) > len(pattern) and not open_end):
        return False
    for at, wanted in enumerate(pattern):
        if wanted == "*":
            continue
        if segments[at] != wanted:
            return False
    # An exact length and a closed pattern do not cover a pattern with an open end.
    return open_end or segments[-1] != "*"


def meet(one: Resource, other: Resource) -> Resource | None:
    """The most general resource that both cover; None if no name is covered by both."""
    if one[0] == "*":
        qualifier = other[0]
    elif other[0] == "*" or one[0] == other[0]:
        qualifier = one[0]
    else:
        return None
    a, b = one[1], other[1]
    if len(a) < len(b):
        a, b = b, a
    if len(a) > len(b):
        if b[-1] != "*":
            return None
        b = b[:-1] + ("*",) * (len(a) - len(b) + 1)
    # Only the longer one's own end tells whether the meet is open; a shorter one's end is open by now.
    result = []
    for at, (x, y) in enumerate(zip(a, b, strict=True)):
        if x != "*" and y != "*" and x != y:
            return None
        if at == len(a) - 1 and "*" in (x, y) and x != y:
            result.append(x if y == "*" else y)
        else:
            result.append(y if x == "*" else x)
    return qualifier, tuple(result)


def join_resource(resource: Resource) -> str:
    qualifier, segments = resource
    return (f"[{qualifier}]" if qualifier else "") + ":".join(segments)


class Capability:
    """What a key or token may do. Immutable."""

    __slots__ = ("_everything", "_resources", "_rules", "text")

    def __init__(self, resources: Mapping[str, tuple[str, ...]], text: str | None = None) -> None:
        self._resources = dict(resources)
        self._rules = [(split_resource(name), _mask(operations)) for name, operations in self._resources.items()]
        self.text = text if text is not None else orjson.dumps(self._resources).decode()
        self._everything = 0
        for (qualifier, segments), mask in self._rules:
            if segments == ("*",) and qualifier in ("", "*"):
                self._everything |= mask

    def __repr__(self) -> str:
        return f"Capability({self.text})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Capability) and self._resources == other._resources

    def __hash__(self) -> int:
        return hash(self.text)

    @classmethod
    def parse(cls, given: object) -> Capability:
        """From JSON text, or a map. Raises: BadRequest 40000, saying which part is wrong."""
        text: str | None = None
        if isinstance(given, str):
            if len(given) > limits.CAPABILITY_BYTES:
                raise BadRequest(f"capability: longer than {limits.CAPABILITY_BYTES} characters", code=40000)
            text = given
            try:
                given = orjson.loads(given)
            except ValueError as error:
                raise BadRequest(f"capability: is no JSON: {error}", code=40000) from error
        if not isinstance(given, dict):
            raise BadRequest("capability: must be a map of resources to operations", code=40000)
        if len(given) > limits.CAPABILITY_RESOURCES:
            raise BadRequest(f"capability: more than {limits.CAPABILITY_RESOURCES} resources", code=40000)
        return cls({str(name): _operations(str(name), value) for name, value in given.items()}, text)

    @property
    def empty(self) -> bool:
        return not self._resources

    def operations(self, channel: str) -> int:
        """The operations allowed on this channel, as a mask."""
        if not channel.startswith("[") and self._everything == ALL:
            return ALL
        name, allowed = split_resource(channel), 0
        for resource, mask in self._rules:
            if mask & ~allowed and matches(resource, name):
                allowed |= mask
        return allowed

    def everywhere(self) -> int:
        """The operations that concern the whole app: those on ``*`` or ``[*]*``."""
        return self._everything

    def permits(self, channel: str, operation: Operation) -> bool:
        return bool(self.operations(channel) & operation)

    def intersect(self, requested: Capability) -> Capability:
        """What of ``requested`` this one allows; operations in the order requested, ``*`` spelled out in this one's.

        Raises: AuthError 40160, if nothing is left.
        """
        found: dict[str, list[str]] = {}
        order: dict[str, tuple[str, ...]] = {}
        for wanted_name, wanted in requested._resources.items():
            for own_name, own in self._resources.items():
                common = meet(split_resource(own_name), split_resource(wanted_name))
                if common is None:
                    continue
                if wanted == ("*",):
                    shared = list(own)
                elif own == ("*",):
                    shared = list(wanted)
                else:
                    shared = [operation for operation in wanted if operation in own]
                if not shared:
                    continue
                name = join_resource(common)
                merged = found.setdefault(name, [])
                order.setdefault(name, wanted)
                merged += [operation for operation in shared if operation not in merged]
        result: dict[str, tuple[str, ...]] = {}
        for name, merged in found.items():
            if "*" in merged:
                result[name] = ("*",)
            elif order[name] == ("*",):
                result[name] = tuple(merged)
            else:
                rank = {operation: at for at, operation in enumerate(order[name])}
                result[name] = tuple(sorted(merged, key=lambda operation: rank.get(operation, len(rank))))
        if not result:
            raise AuthError("the key permits nothing of the capability requested", code=40160)
        return Capability(result)


def _operations(name: str, value: Any) -> tuple[str, ...]:
    if not name:
        raise BadRequest("capability: a resource must have a name", code=40000)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise BadRequest(f"capability[{name!r}]: must be an array of operations, at least one", code=40000)
    for operation in value:
        if operation != "*" and operation not in NAMES:
            raise BadRequest(f"capability[{name!r}]: {operation!r} is no operation", code=40000)
    if "*" in value and len(value) > 1:
        raise BadRequest(f"capability[{name!r}]: '*' stands alone or not at all", code=40000)
    return tuple(dict.fromkeys(value))


def _mask(operations: tuple[str, ...]) -> int:
    if operations == ("*",):
        return ALL
    mask = 0
    for operation in operations:
        mask |= NAMES[operation]
    return mask
