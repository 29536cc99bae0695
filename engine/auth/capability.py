"""Capabilities: the operations that are allowed on channels.

    {"room:*": ["publish", "subscribe"], "[meta]*": ["subscribe"]}

    resource   [qualifier] and segments between colons; a last segment ``*`` stands for one or more segments,
               an inner one for exactly one; a ``*`` within a segment is only itself
    [*]*       the one resource that matches names whatever their qualifier

    held as    exact: whole name        -> mask        room:1      one look-up for a name,
               open:  up to the last *  -> mask        room:       one for each of its colons,
               inner: (segments, mask)                 a:*:c       and a walk over these, which are rare

The union of all matching resources is allowed. Every resource is a set of names, and the common names of two resources
are exactly those of one resource, or none. This makes intersection exact.

Source: Ably's capability language, with its rules for intersection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

import orjson

from engine import limits
from engine.errors import AuthError, BadRequest


class Operation:
    """Bits of a mask. Plain integers: ``&`` with an enum's member takes 0.7 us, and it runs for every publish."""

    SUBSCRIBE: Final = 1 << 0
    PUBLISH: Final = 1 << 1
    PRESENCE: Final = 1 << 2
    HISTORY: Final = 1 << 3
    STATS: Final = 1 << 4
    CHANNEL_METADATA: Final = 1 << 5
    PUSH_SUBSCRIBE: Final = 1 << 6
    PUSH_ADMIN: Final = 1 << 7
    PRIVILEGED_HEADERS: Final = 1 << 8
    OBJECT_SUBSCRIBE: Final = 1 << 9
    OBJECT_PUBLISH: Final = 1 << 10
    ANNOTATION_SUBSCRIBE: Final = 1 << 11
    ANNOTATION_PUBLISH: Final = 1 << 12
    MESSAGE_UPDATE_OWN: Final = 1 << 13
    MESSAGE_UPDATE_ANY: Final = 1 << 14
    MESSAGE_DELETE_OWN: Final = 1 << 15
    MESSAGE_DELETE_ANY: Final = 1 << 16


def not_permitted(operation: str, where: str, *, field: str | None = None) -> AuthError:
    """What is told to those whose credentials do not permit an operation, on a channel or elsewhere."""
    return AuthError(f"{field + ': ' if field else ''}the credentials do not permit {operation} on {where}", code=40160)


NAMES: Mapping[str, int] = {
    name.lower().replace("_", "-"): bit for name, bit in vars(Operation).items() if isinstance(bit, int)
}
ALL: Final = sum(NAMES.values())
FULL_TEXT: Final = '{"*":["*"]}'

ANY = ("*",)  # as operations: all of them; as segments: any name without a qualifier
EVERYTHING = "[*]*"


def split_name(text: str) -> tuple[str, str]:
    """Qualifier and name of a channel: ``[meta?x=1]log`` is ``[meta]`` and ``log``; params are no part of either."""
    if text.startswith("["):
        end = text.find("]")
        if end > 0:
            kind = text[1:end].split("?", 1)[0].split("=", 1)[0]
            return f"[{kind}]" if kind else "", text[end + 1 :]
    return "", text


class Capability:
    """The operations that a key or token permits. Immutable, and shared by all clients that have the same one."""

    __slots__ = ("_everywhere", "_exact", "_inner", "_open", "_resources", "_whatever", "text")

    def __init__(self, resources: Mapping[str, tuple[str, ...]], text: str | None = None) -> None:
        self._resources = dict(resources)
        self.text = orjson.dumps(self._resources).decode() if text is None else text
        self._exact: dict[str, int] = {}
        self._open: dict[str, int] = {}
        self._inner: list[tuple[str, tuple[str, ...], int]] = []
        self._whatever = 0  # allowed by [*]*
        for resource, operations in self._resources.items():
            mask = _mask(operations)
            if resource == EVERYTHING:
                self._whatever = mask
                continue
            qualifier, segments = _split_resource(resource)
            if "*" in segments[:-1]:
                self._inner.append((qualifier, segments, mask))
            elif segments[-1] == "*":
                self._open[resource[:-1]] = mask
            else:
                self._exact[resource] = mask
        self._everywhere = self._whatever | self._open.get("", 0)

    def __repr__(self) -> str:
        return f"Capability({self.text})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Capability) and self._resources == other._resources

    def __hash__(self) -> int:
        return hash(frozenset(self._resources))

    @classmethod
    def parse(cls, given: object) -> Capability:
        """From JSON text, or from a map. Raises: BadRequest 40000, naming the wrong part."""
        if isinstance(given, str) and len(given) <= limits.CAPABILITY_SHARED_BYTES:
            return _parse_shared(given)
        return _parse(given)

    @property
    def empty(self) -> bool:
        return not self._resources

    @property
    def names(self) -> Iterable[str]:
        """The resources, as written."""
        return self._resources.keys()

    @property
    def resources(self) -> Mapping[str, tuple[str, ...]]:
        """The operations of each resource, both as written."""
        return dict(self._resources)

    def operations(self, channel: str) -> int:
        """The operations allowed on this channel, as a mask."""
        qualifier = ""
        if channel.startswith("["):
            qualifier, name = split_name(channel)
            channel = qualifier + name
        allowed = self._whatever | self._exact.get(channel, 0)
        if self._open:
            known, end = self._open, len(qualifier)
            allowed |= known.get(qualifier, 0)
            while (colon := channel.find(":", end)) >= 0:
                end = colon + 1
                allowed |= known.get(channel[:end], 0)
        if self._inner:
            segments = channel[len(qualifier) :].split(":")
            for inner_qualifier, pattern, mask in self._inner:
                if mask & ~allowed and inner_qualifier == qualifier and _matches(pattern, segments):
                    allowed |= mask
        return allowed

    def permits(self, channel: str, operation: int) -> bool:
        return bool(self.operations(channel) & operation)

    def everywhere(self) -> int:
        """The operations that concern the whole app: those on ``*`` or ``[*]*``."""
        return self._everywhere

    def intersect(self, requested: Capability) -> Capability:
        """The part of ``requested`` that this one allows: the very same object if that is all of it.

        Operations come in the order requested; a ``*`` requested is spelled out in this one's order.

        Raises: AuthError 40160, if nothing is left. BadRequest 40000, if it is too much to write down.
        """
        found: dict[str, list[str]] = {}
        own_patterns = [(_split_resource(own), own, operations) for own, operations in self._resources.items()]
        for wanted, wanted_operations in requested._resources.items():
            pattern = _split_resource(wanted)
            for own_pattern, own, own_operations in own_patterns:
                shared = _common(wanted_operations, own_operations)
                if not shared:
                    continue
                resource = _meet(own, own_pattern, wanted, pattern)
                if resource is None:
                    continue
                merged = found.get(resource)
                if merged is None:
                    if len(found) >= limits.CAPABILITY_RESOURCES:
                        raise BadRequest(
                            "capability: intersects the key's in too many places; request less", code=40000
                        )
                    merged = found[resource] = []
                merged += [operation for operation in shared if operation not in merged]
        if not found:
            raise AuthError("capability: the key permits none of this", code=40160)
        narrowed = {name: _in_order(merged, requested._resources.get(name)) for name, merged in found.items()}
        if narrowed == requested._resources:
            return requested
        result = Capability(narrowed)
        if len(result.text.encode()) > limits.CAPABILITY_BYTES:
            raise BadRequest("capability: intersects the key's in too many places; request less", code=40000)
        return result


@lru_cache(maxsize=limits.CAPABILITIES_SHARED)
def _parse_shared(text: str) -> Capability:
    """One object for all tokens with the same text: most of a server's clients have one of a few."""
    return _parse(text)


def _parse(given: object) -> Capability:
    text = given if isinstance(given, str) else None
    if isinstance(given, str):
        if len(given.encode("utf-8", "replace")) > limits.CAPABILITY_BYTES:
            raise BadRequest(f"capability: must have at most {limits.CAPABILITY_BYTES} bytes", code=40000)
        try:
            given = orjson.loads(given)
        except ValueError as error:
            raise BadRequest(f"capability: not valid JSON: {error}", code=40000) from None
    if not isinstance(given, dict):
        raise BadRequest("capability: must be a map of resources to operations", code=40000)
    if len(given) > limits.CAPABILITY_RESOURCES:
        raise BadRequest(f"capability: must have at most {limits.CAPABILITY_RESOURCES} resources", code=40000)
    capability = Capability({_resource(name): _operations(name, value) for name, value in given.items()}, text)
    if len(capability.text.encode()) > limits.CAPABILITY_BYTES:
        raise BadRequest(f"capability: must have at most {limits.CAPABILITY_BYTES} bytes", code=40000)
    return capability


def _resource(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise BadRequest(f"capability: a resource must be a name, got {name!r}", code=40000)
    if name.count(":") >= limits.CAPABILITY_SEGMENTS:
        raise BadRequest(
            f"capability: a resource must have at most {limits.CAPABILITY_SEGMENTS} segments, {name[:60]!r} has more",
            code=40000,
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"capability: the resource {name[:60]!a} is not valid Unicode", code=40000) from None
    return name


def _operations(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise BadRequest(f"capability[{name[:60]!r}]: must be a non-empty array of operations", code=40000)
    for operation in value:
        if operation != "*" and operation not in NAMES:
            raise BadRequest(f"capability[{name[:60]!r}]: {operation[:40]!r} is not an operation", code=40000)
    if "*" in value and len(value) > 1:
        raise BadRequest(f"capability[{name[:60]!r}]: '*' cannot be combined with other operations", code=40000)
    return tuple(dict.fromkeys(value))


def _mask(operations: tuple[str, ...]) -> int:
    if operations == ANY:
        return ALL
    mask = 0
    for operation in operations:
        mask |= NAMES[operation]
    return mask


def _split_resource(resource: str) -> tuple[str, tuple[str, ...]]:
    """Qualifier and segments. Unlike a channel's, a resource's qualifier is taken as it is written."""
    qualifier = ""
    if resource.startswith("["):
        end = resource.find("]") + 1
        qualifier, resource = resource[:end], resource[end:]
    return qualifier, tuple(resource.split(":"))


def _matches(pattern: tuple[str, ...], segments: list[str]) -> bool:
    if pattern[-1] == "*":
        if len(segments) < len(pattern):
            return False
    elif len(segments) != len(pattern):
        return False
    return all(wanted in ("*", segment) for wanted, segment in zip(pattern, segments, strict=False))


def _meet(
    one: str, one_split: tuple[str, tuple[str, ...]], other: str, other_split: tuple[str, tuple[str, ...]]
) -> str | None:
    """The resource of exactly those names that both match; None if there are none."""
    if one in (EVERYTHING, other):
        return other
    if other == EVERYTHING:
        return one
    if one_split[0] != other_split[0]:
        return None
    short, long = sorted((one_split[1], other_split[1]), key=len)
    if len(short) < len(long):
        if short[-1] != "*":
            return None
        short = short[:-1] + ANY * (len(long) - len(short) + 1)  # an open end takes whatever the longer one has there
    common = []
    for mine, yours in zip(short, long, strict=True):
        if mine not in (yours, "*") and yours != "*":
            return None
        common.append(yours if mine == "*" else mine)
    return one_split[0] + ":".join(common)


def _common(wanted: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    if wanted == ANY:
        return own
    if own == ANY:
        return wanted
    return tuple([operation for operation in wanted if operation in own])


def _in_order(operations: list[str], requested: tuple[str, ...] | None) -> tuple[str, ...]:
    """Each operation once; in the order of the request, if it names this very resource."""
    if "*" in operations:
        return ANY
    if requested is None or requested == ANY:
        return tuple(operations)
    first = [operation for operation in requested if operation in operations]
    return (*first, *[operation for operation in operations if operation not in requested])
