"""The modes of an attachment, as bits: requested by flags or names, granted by a capability, available here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from engine import absent
from engine.auth.capability import NAMES, Operation
from engine.errors import AuthError, BadRequest
from server.realtime.actions import Flag

DEFAULT_MODES = Flag.PRESENCE | Flag.PUBLISH | Flag.SUBSCRIBE | Flag.PRESENCE_SUBSCRIBE | Flag.ANNOTATION_PUBLISH
ALL_MODES = DEFAULT_MODES | Flag.ANNOTATION_SUBSCRIBE | Flag.OBJECT_SUBSCRIBE | Flag.OBJECT_PUBLISH

_MODE_NAMES = {
    "presence": Flag.PRESENCE,
    "publish": Flag.PUBLISH,
    "subscribe": Flag.SUBSCRIBE,
    "presence_subscribe": Flag.PRESENCE_SUBSCRIBE,
    "annotation_publish": Flag.ANNOTATION_PUBLISH,
    "annotation_subscribe": Flag.ANNOTATION_SUBSCRIBE,
    "object_subscribe": Flag.OBJECT_SUBSCRIBE,
    "object_publish": Flag.OBJECT_PUBLISH,
}
_GRANTS = (
    (Operation.SUBSCRIBE, Flag.SUBSCRIBE | Flag.PRESENCE_SUBSCRIBE),
    (Operation.PUBLISH, Flag.PUBLISH),
    (Operation.PRESENCE, Flag.PRESENCE),
    (Operation.ANNOTATION_PUBLISH, Flag.ANNOTATION_PUBLISH),
    (Operation.ANNOTATION_SUBSCRIBE, Flag.ANNOTATION_SUBSCRIBE),
    (Operation.OBJECT_SUBSCRIBE, Flag.OBJECT_SUBSCRIBE),
    (Operation.OBJECT_PUBLISH, Flag.OBJECT_PUBLISH),
)
ABSENT_MODES = sum(mode for name, mode in _MODE_NAMES.items() if name in absent.MODES)


def requested_modes(flags: int, params: Mapping[str, str]) -> int:
    """The modes that the client requests: by param, else by flags; 0 if by neither."""
    if "modes" in params:
        modes = 0
        for word in params["modes"].split(","):
            mode = _MODE_NAMES.get(word.strip().lower())
            if mode is None:
                raise BadRequest(f"params.modes: {word.strip()!r} is not a mode", code=40003)
            modes |= mode
        return modes
    return flags & ALL_MODES


def mode_names(modes: int) -> str:
    """The names as in ``params.modes``."""
    return ", ".join(name for name, mode in _MODE_NAMES.items() if modes & mode)


@lru_cache(maxsize=256)  # few combinations occur; caching also shares the integers among all attachments
def granted_modes(requested: int, operations: int) -> int:
    """The requested modes that the capability permits."""
    allowed = 0
    for operation, modes in _GRANTS:
        if operations & operation:
            allowed |= modes
    return requested & allowed


def available_modes(permitted: int, *, named: bool) -> int:
    """The permitted modes that this server supports. A library that names none is not refused for its defaults.

    Raises: BadRequest, if a mode requested by name is not available, or none is left.
    """
    missing = permitted & ABSENT_MODES
    if missing and (named or missing == permitted):
        names = mode_names(missing).split(", ")
        raise absent.refusal(f"modes.{names[0]}", absent.MODES[names[0]])
    return permitted & ~missing


def denied(name: str, requested: int, whose: str) -> AuthError:
    """The error when none of these modes is granted; ``whose`` says by which credentials."""
    needed = [word for word, bit in NAMES.items() if any(bit == op and modes & requested for op, modes in _GRANTS)]
    return AuthError(
        f"{whose} credentials do not permit attaching to {name!r} with the modes {mode_names(requested)}: "
        f"their capability has no {' or '.join(needed)} for {name!r}",
        code=40160,
    )
