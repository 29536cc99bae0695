"""Typed access to members of a decoded protocol message. A null member counts as absent.

Raises: BadRequest 80013, naming the field, when it is missing or has the wrong type."""

from __future__ import annotations

from typing import Any

from engine.errors import BadRequest


def _wrong(field: str, wanted: str, value: object) -> BadRequest:
    found = "is missing" if value is None else f"got {type(value).__name__}"
    return BadRequest(f"{field}: must be {wanted}, {found}", code=80013)


def integer(message: dict[str, Any], field: str, *, limit: int, default: int | None = None) -> int:
    """A whole number from 0 to ``limit`` - 1. Accepts floats without a fraction, because some encoders write them."""
    value = message.get(field)
    if value is None and default is not None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(field, "a whole number", value)
    if not 0 <= value < limit:
        raise BadRequest(f"{field}: must be from 0 to {limit - 1}, got {value}", code=80013)
    return value


def text(message: dict[str, Any], field: str) -> str:
    value = message.get(field)
    if not isinstance(value, str):
        raise _wrong(field, "a string", value)
    return value


def optional_text(message: dict[str, Any], field: str) -> str | None:
    return None if message.get(field) is None else text(message, field)


def mapping(message: dict[str, Any], field: str) -> dict[str, Any] | None:
    value = message.get(field)
    if value is not None and not isinstance(value, dict):
        raise _wrong(field, "a map", value)
    return value
