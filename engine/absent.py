"""What the protocol has and this server has not, by where it is asked for. It is refused there, never taken in silence.

    a param, or a mode by name, of ATTACH    ERROR of that channel    40000
    PRESENCE, ANNOTATION, OBJECT             NACK                     40000
    a member of extras                       NACK, or 400             40032
    a path                                   404                      40400

Whoever builds one of these takes it out here. The README has the table for users; docs/decisions/0022 says why so."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import BadRequest

PRESENCE = "presence is"
OCCUPANCY = "occupancy is"
DELTAS = "deltas are"
PUSH = "push is"
ANNOTATIONS = "annotations are"
OBJECTS = "LiveObjects are"
MUTABLE = "mutable messages are"
EVENTS = "server-sent events are"
COMET = "the comet transport is"

PARAMS = {"delta": DELTAS, "occupancy": OCCUPANCY, "remainPresentFor": PRESENCE, "appendMode": MUTABLE}
MODES = {
    "presence": PRESENCE,
    "presence_subscribe": PRESENCE,
    "annotation_publish": ANNOTATIONS,
    "annotation_subscribe": ANNOTATIONS,
    "object_subscribe": OBJECTS,
    "object_publish": OBJECTS,
}
EXTRAS = {"push": PUSH}  # each refused by ext/wire/neutral.pyx, too

_PATHS = {"push": PUSH, "presence": PRESENCE, "sse": EVENTS, "event-stream": EVENTS, "comet": COMET}  # by first segment
_OF_CHANNELS = {  # anywhere behind a channel's name
    "presence": PRESENCE,
    "annotations": ANNOTATIONS,
    "client-summary": ANNOTATIONS,
    "versions": MUTABLE,
    "object": OBJECTS,
    "objects": OBJECTS,
}


def refusal(where: str, feature: str, *, code: int = 40000, status: int | None = None) -> BadRequest:
    """``where`` is the field or the request by which it was asked for."""
    return BadRequest(f"{where}: {feature} not available on this server", code=code, status=status)


def of_path(segments: Sequence[str]) -> str | None:
    """The feature that a path would belong to, if it is one of these."""
    if segments[:1] != ["channels"]:
        return _PATHS.get("".join(segments[:1]))
    for segment in segments[2:]:
        if segment in _OF_CHANNELS:
            return _OF_CHANNELS[segment]
    one_message = len(segments) == 4 and segments[2] == "messages" and segments[3]
    return MUTABLE if one_message else None
