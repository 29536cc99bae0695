"""Channel names: their validity, and the params in them.

chat:1                       the namespace is ``chat``
[?rewind=1&echo=false]chat   params for this attachment; the channel is ``chat``, replies use the text as written"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import parse_qsl

from engine import limits
from engine.errors import BadRequest

_NONE: Mapping[str, str] = MappingProxyType({})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class ChannelName:
    """``name`` is the channel, ``full`` the text that the client uses, ``params`` those in the name."""

    name: str
    full: str
    params: Mapping[str, str] = field(default_factory=lambda: _NONE)


def parse_channel(text: str) -> ChannelName:
    """Raises: BadRequest 40010, with the error in the name."""
    name, params = text, _NONE
    if len(text) > limits.CHANNEL_NAME_BYTES:  # checked first: parsing params takes time
        raise _wrong(text, f"it has {len(text)} characters, more than {limits.CHANNEL_NAME_BYTES}")
    if text.startswith("["):
        end = text.find("]")
        if end < 0:
            raise _wrong(text, "its leading bracket is not closed")
        qualifier, name = text[1:end], text[end + 1 :]
        if not qualifier.startswith("?"):
            raise _wrong(text, f"the qualifier [{qualifier[:40]}] is not available on this server; [?param=value] is")
        try:
            params = MappingProxyType(dict(parse_qsl(qualifier[1:], keep_blank_values=True, max_num_fields=20)))
        except ValueError:
            raise _wrong(text, "it has more than 20 params") from None
        if name.startswith("["):
            raise _wrong(text, "it has two qualifiers")
    if not name:
        raise _wrong(text, "it is empty")
    if name.startswith(":"):
        raise _wrong(text, "it begins with a colon")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _wrong(text, "it is not valid Unicode") from None
    if size > limits.CHANNEL_NAME_BYTES:
        raise _wrong(text, f"it has {size} bytes, more than {limits.CHANNEL_NAME_BYTES}")
    if _CONTROL.search(name):
        raise _wrong(text, "it has control characters")
    return ChannelName(name, text, params)


def namespace(name: str) -> str:
    """The text before the first colon; empty if there is none."""
    before, colon, _ = name.partition(":")
    return before if colon else ""


def _wrong(text: str, reason: str) -> BadRequest:
    shown = ascii(text[:60])
    return BadRequest(f"channel: {shown} is not a valid channel name: {reason}", code=40010)
