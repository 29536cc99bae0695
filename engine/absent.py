"""Protocol features that this server lacks, by where a client asks for them. They are refused, never ignored silently.

    a param, or a mode by name, of ATTACH    ERROR of that channel    40000
    PRESENCE, ANNOTATION, OBJECT             NACK                     40000
    a member of extras                       NACK, or 400             40032
    a path                                   404                      40400

When you implement one of these, take it out here. The README has the table for users; docs/decisions/0022 gives the
reasons."""

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
EXTRAS = {"push": PUSH}  # ext/wire/neutral.pyx refuses each of them, too

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
    """``where``: the field or the request that asked for the feature."""
    return BadRequest(f"{where}: {feature} not available on this server", code=code, status=status)


def of_path(segments: Sequence[str]) -> str | None:
    """The absent feature that a path would belong to, if any."""
    if segments[:1] != ["channels"]:
        return _PATHS.get("".join(segments[:1]))
    for segment in segments[2:]:
        if segment in _OF_CHANNELS:
            return _OF_CHANNELS[segment]
    one_message = len(segments) == 4 and segments[2] == "messages" and segments[3]
    return MUTABLE if one_message else None
