"""What comes from outside, checked against a type: msgspec looks, and what is wrong is told in our words.

    value, type --msgspec--> the value, of that type
                     \\----> Wrong: where (apps[0].keys[1].enabled), what it must be, and what it is

From msgspec's own text only the place is taken. It has one bound where there are two, and repeats values, which may be
secrets: what is wanted there is told from the type, and what was found only where it is harmless."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from msgspec import Meta, Struct, ValidationError, convert
from msgspec.structs import FieldInfo, fields

from engine.guess import did_you_mean

T = TypeVar("T")
Secret = Annotated[str, Meta(extra={"secret": True})]
"""It is, or holds, what no message may repeat."""
SHOWN = 40  # characters of what was found
FEW = 10  # members: so many are told to who has written another

_PLACE = re.compile(r".* - at `\$(.*)`", re.DOTALL)
_STEP = re.compile(r"(\w+)|\[([0-9]+)\]")
_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", str: "a string", tuple: "an array"}


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Members by name, and no others; ``called`` is what one of them is, a limit or "limit of a key"."""

    called: ClassVar[str] = "setting"


class Wrong(ValueError):
    """``where`` is a place within what was checked; none: all of it. ``unknown``: the name that nothing has there."""

    def __init__(self, where: str, reason: str, *, unknown: str = "") -> None:
        super().__init__(where, reason)
        self.where, self.reason, self.unknown = where, reason, unknown

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason


@contextmanager
def inside(place: str) -> Iterator[None]:
    """What is wrong in the block is wrong in there."""
    try:
        yield
    except Wrong as error:
        error.where = f"{place}.{error.where}".replace(".[", "[").strip(".")
        raise


def checked(value: Any, kind: type[T], *, table: str = "map") -> T:
    """``table``: what something with members is called where it comes from. Raises: Wrong."""
    try:
        return convert(value, kind)
    except ValidationError as error:
        found = _PLACE.fullmatch(str(error))
    where, parts = "", _parts(kind)
    _check_names(value, parts)  # first: one may look like a place
    with suppress(LookupError):  # it does not say which member of a map it is
        for name, index in _STEP.findall(found[1] if found is not None else ""):
            inner = _named(parts[Struct][0])[name].type if name else get_args(parts[tuple][0])[0]
            value, parts = value[name or int(index)], _parts(inner)
            where += f".{name}" if name else f"[{index}]"
    with inside(where.lstrip(".")):
        _check_names(value, parts)
        raise Wrong("", f"must be {_wanted(parts, table)}{_found(parts, value, table)}")


def _parts(hint: Any) -> dict[Any, tuple[Any, Meta]]:
    """What it may be: of each kind the type, and what else is said about it."""
    if get_origin(hint) in (Union, UnionType):
        return {of: part for each in get_args(hint) for of, part in _parts(each).items()}
    if get_origin(hint) is Annotated:
        bare, meta = get_args(hint)
        return {of: (part, meta) for of, (part, _) in _parts(bare).items()}
    return {get_origin(hint) or (Struct if issubclass(hint, Struct) else hint): (hint, Meta())}


def _named(struct: Any) -> dict[str, FieldInfo]:
    return {each.encode_name: each for each in fields(struct)}


def _check_names(value: object, parts: dict[Any, tuple[Any, Meta]]) -> None:
    if not isinstance(value, dict) or Struct not in parts:
        return
    struct = parts[Struct][0]
    known = _named(struct)
    for name in value if issubclass(struct, Table) else ():
        if name not in known:
            listed = f"; known {struct.called.split()[0]}s are {', '.join(known)}" if len(known) <= FEW else ""
            raise Wrong(name, f"unknown {struct.called}{listed}{did_you_mean(name, known)}", unknown=name)
    for name, each in known.items():
        if each.required and name not in value:
            raise Wrong(name, "is missing")


def _wanted(parts: dict[Any, tuple[Any, Meta]], table: str) -> str:
    words: list[str] = []
    for kind, (bare, meta) in parts.items():
        if meta.description is not None:
            words.append(meta.description)
        elif kind is Literal:
            several = get_args(bare)
            words.append(f"one of {', '.join(several)}" if len(several) > 1 else f'"{several[0]}"')
        elif kind is not NoneType:
            bounds = f" from {meta.ge:,} to {meta.le:,}" if meta.ge is not None else ""
            words.append(_WORDS.get(kind, f"a {table}") + bounds)
    return ", or ".join(dict.fromkeys(words))


def _found(parts: dict[Any, tuple[Any, Meta]], value: object, table: str) -> str:
    """What it is, unless a secret is wanted; of texts only those that are none, nor may be one for further inside."""
    if isinstance(value, list | dict):
        return f", got {'an array' if isinstance(value, list) else f'a {table}'}"
    if any(meta.extra for _, meta in parts.values()):
        return ""
    if isinstance(value, int | float | None):
        return f", got {f'{value:,}' if int in parts and type(value) is int else json.dumps(value)}"
    if not isinstance(value, str):
        return f", got {type(value).__name__}"
    if any(kind not in (bool, int, float, str, Literal, NoneType) for kind in parts):
        return ""
    words = get_args(parts[Literal][0]) if Literal in parts else ()
    return f", got {value[:SHOWN]!r}{did_you_mean(value, words)}"
