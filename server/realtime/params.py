"""Channel params, given in a channel's name and with an ATTACH."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from engine import absent, limits
from engine.errors import BadRequest
from engine.names import ChannelName

NO_PARAMS: Mapping[str, str] = MappingProxyType({})
_RECOGNISED = ("rewind", "rewindLimit", "modes", "echo")
_REWIND = re.compile(r"([0-9]{1,9})([sm]?)")


class Rewind:
    """How far back a fresh attachment begins: by messages, or by time and messages."""

    __slots__ = ("messages", "window_ms")

    def __init__(self, messages: int | None, window_ms: int | None) -> None:
        self.messages = messages
        self.window_ms = window_ms


def channel_params(name: ChannelName, given: object) -> Mapping[str, str]:
    """The params in force, as text: those in the name, overridden by those of the ATTACH. Unrecognised ones are
    dropped.

    Raises: BadRequest, if ``given`` is no map, a value is neither text nor a number, or a feature is not available
        here; 40003, for an unknown value of echo.
    """
    if given is None and not name.params:
        return NO_PARAMS
    merged: dict[str, str] = dict(name.params)
    if given is not None:
        if not isinstance(given, Mapping):
            raise BadRequest("params: must be a map of strings", code=40000)
        for key, value in given.items():
            if value is not None and (key in _RECOGNISED or key in absent.PARAMS):
                merged[key] = _text(key, value)
    for key, feature in absent.PARAMS.items():
        if key in merged:
            raise absent.refusal(f"params.{key}", feature)
    if merged.get("echo") not in (None, "true", "false"):
        raise BadRequest(f"params.echo: must be true or false, got {merged['echo']!r}", code=40003)
    return {key: merged[key] for key in _RECOGNISED if key in merged}


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():  # some encoders write whole numbers as floats
        value = int(value)
    if not isinstance(value, str | int | float):
        raise BadRequest(f"params.{key}: must be a string, got {type(value).__name__}", code=40000)
    text = str(value)
    if len(text) > limits.PARAM_LENGTH:
        raise BadRequest(f"params.{key}: has more than {limits.PARAM_LENGTH} characters", code=40003)
    return text


def parse_rewind(params: Mapping[str, str]) -> Rewind | None:
    """``rewind`` and ``rewindLimit``. Raises: BadRequest 40003 for anything but N, Ns, Nm."""
    text = params.get("rewind")
    limit_text = params.get("rewindLimit")
    limit: int | None = None
    if limit_text is not None:
        if not re.fullmatch(r"[0-9]{1,9}", limit_text) or int(limit_text) == 0:
            raise BadRequest(
                f"params.rewindLimit: must be a positive number of messages, got {limit_text!r}", code=40003
            )
        limit = int(limit_text)
    if text is None:
        return None
    match = _REWIND.fullmatch(text)
    if match is None:
        raise BadRequest(f"params.rewind: must be N, Ns or Nm, got {text!r}", code=40003)
    amount, unit = int(match[1]), match[2]
    if not amount:
        return None
    if unit:
        return Rewind(limit, amount * (1000 if unit == "s" else 60_000))
    return Rewind(amount if limit is None else min(amount, limit), None)
