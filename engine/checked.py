"""Checks external input against a type: msgspec validates, and errors are worded here.

    value, type --msgspec--> the value, of that type
                     \\----> Wrong: the place (apps[0].keys[1].enabled), the expected value, and the actual one

Only the place is taken from msgspec's own text. That text gives one bound where there are two, and repeats values,
which may be secrets. So the expected value is derived from the type, and the actual one is shown only if harmless."""

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
"""A secret, or a value that contains one: no message may repeat it."""
SHOWN = 40  # characters of the actual value
FEW = 10  # members: an error about an unknown one lists all names up to this number

_PLACE = re.compile(r".* - at `\$(.*)`", re.DOTALL)
_STEP = re.compile(r"(\w+)|\[([0-9]+)\]")
_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", str: "a string", tuple: "an array"}


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A map with a fixed set of members; ``called`` is the word for one of them: a limit, or "limit of a key"."""

    called: ClassVar[str] = "setting"


class Wrong(ValueError):
    """``where``: a place within the checked value; empty: all of it. ``unknown``: the unknown name, if that is the
    error."""

    def __init__(self, where: str, reason: str, *, unknown: str = "") -> None:
        super().__init__(where, reason)
        self.where, self.reason, self.unknown = where, reason, unknown

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason


@contextmanager
def inside(place: str) -> Iterator[None]:
    """Prefix the place of errors in the block with ``place``."""
    try:
        yield
    except Wrong as error:
        error.where = f"{place}.{error.where}".replace(".[", "[").strip(".")
        raise


def checked(value: Any, kind: type[T], *, table: str = "map") -> T:
    """``table``: the word for a map in the source format. Raises: Wrong."""
    try:
        return convert(value, kind)
    except ValidationError as error:
        found = _PLACE.fullmatch(str(error))
    where, parts = "", _parts(kind)
    _check_names(value, parts)  # first: a name may look like a place
    with suppress(LookupError):  # msgspec does not name the member of a map
        for name, index in _STEP.findall(found[1] if found is not None else ""):
            inner = _named(parts[Struct][0])[name].type if name else get_args(parts[tuple][0])[0]
            value, parts = value[name or int(index)], _parts(inner)
            where += f".{name}" if name else f"[{index}]"
    with inside(where.lstrip(".")):
        _check_names(value, parts)
        raise Wrong("", f"must be {_wanted(parts, table)}{_found(parts, value, table)}")


def _parts(hint: Any) -> dict[Any, tuple[Any, Meta]]:
    """The permitted kinds: the type of each, and its annotations."""
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
    """The actual value, unless a secret is expected. Text is shown only where a scalar is expected."""
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
