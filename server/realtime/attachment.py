"""One client's attachment to one channel: what it may, and where it reads.

    starting --channel awake, position known--> live       a reader of one of the channel's streams
                                                 | ^
              fell out of the stream             v |       caught up
                                                catching up: reads ring and journal, a batch at a time

The ATTACHED goes out before anything else of the channel, because both are queued on one socket, in this order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from engine import absent, limits
from engine.auth.capability import NAMES, Operation
from engine.channelview import ChannelView
from engine.errors import AuthError, BadRequest
from engine.names import ChannelName
from ext.net.ingest import Ingest
from ext.net.shaper import Shaper
from server.realtime.actions import Flag

if TYPE_CHECKING:
    from ext.log.ring import Stream

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
NO_PARAMS: Mapping[str, str] = MappingProxyType({})
_RECOGNISED = ("rewind", "rewindLimit", "modes", "echo")
_REWIND = re.compile(r"([0-9]{1,9})([sm]?)")


class Reader(Protocol):
    """What reads a stream for us: the plane's subscription, or a TLS connection's."""

    @property
    def active(self) -> bool: ...
    @property
    def cursor(self) -> int: ...
    def stop(self) -> None: ...


class Transport(Protocol):
    """The connection's bytes, plain or TLS."""

    @property
    def queued(self) -> int:
        """Bytes that wait in its own queue."""

    @property
    def silence_ms(self) -> int:
        """For so long nothing has been heard of the peer; 0 while we do not listen."""

    @property
    def shaper(self) -> Shaper | None:
        """When deliveries may be sent, and what is told of them; None: at any time."""

    def shape(self, shaper: Shaper | None) -> None: ...
    def send(self, payload: bytes) -> None: ...
    def send_frames(self, frames: bytes) -> None: ...
    def notify_drained(self) -> None: ...
    def deliver_to(self, sink: Ingest | None) -> None:
        """Plain publishes are for the sink; what it does not take is for the owner."""

    def subscribe(self, stream: Stream, place: int, *, skip_origin: int = 0, quiet_until: int = 0) -> Reader: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self, code: int, reason: str = "") -> None: ...


class Rewind:
    """How far back a fresh attachment begins: by messages, or by time and messages."""

    __slots__ = ("messages", "window_ms")

    def __init__(self, messages: int | None, window_ms: int | None) -> None:
        self.messages = messages
        self.window_ms = window_ms


def channel_params(name: ChannelName, given: object) -> Mapping[str, str]:
    """The params in force, as text: those in the name, overridden by those of the ATTACH; only recognised ones.

    Raises: BadRequest, if ``given`` is no map, one of them neither text nor a number, or of what is not available here;
        40003, for another echo.
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
    if isinstance(value, float) and value.is_integer():  # as some encoders write whole numbers
        value = int(value)
    if not isinstance(value, str | int | float):
        raise BadRequest(f"params.{key}: must be a string, got {type(value).__name__}", code=40000)
    text = str(value)
    if len(text) > limits.PARAM_LENGTH:
        raise BadRequest(f"params.{key}: has more than {limits.PARAM_LENGTH} characters", code=40003)
    return text


def requested_modes(flags: int, params: Mapping[str, str]) -> int:
    """The modes that the client asks for: by param, else by flags; 0: by neither."""
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
    """As they are written in ``params.modes``."""
    return ", ".join(name for name, mode in _MODE_NAMES.items() if modes & mode)


@lru_cache(maxsize=256)  # few are in use; so their numbers, too, are shared by all attachments
def granted_modes(requested: int, operations: int) -> int:
    """What remains of them with this capability."""
    allowed = 0
    for operation, modes in _GRANTS:
        if operations & operation:
            allowed |= modes
    return requested & allowed


def available_modes(permitted: int, *, named: bool) -> int:
    """Those of them that this server has. Libraries that name none are not refused for what they ask for by default.

    Raises: BadRequest, if one was asked for by name and is not there, or none is left.
    """
    missing = permitted & ABSENT_MODES
    if missing and (named or missing == permitted):
        names = mode_names(missing).split(", ")
        raise absent.refusal(f"modes.{names[0]}", absent.MODES[names[0]])
    return permitted & ~missing


def denied(name: str, requested: int, whose: str) -> AuthError:
    """None of these modes is granted; by ``whose`` credentials."""
    needed = [word for word, bit in NAMES.items() if any(bit == op and modes & requested for op, modes in _GRANTS)]
    return AuthError(
        f"{whose} credentials do not permit attaching to {name!r} with the modes {mode_names(requested)}: "
        f"their capability has no {' or '.join(needed)} for {name!r}",
        code=40160,
    )


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


class Attachment:
    """What a client has attached to."""

    __slots__ = (
        "_modes",
        "active",
        "begun",
        "channel",
        "cursor",
        "echo",
        "hurried",
        "name",
        "params",
        "placed",
        "reader",
        "requested",
    )

    def __init__(self, name: ChannelName, channel: ChannelView) -> None:
        self.name = name
        self.channel = channel
        self.active = True
        self.requested = DEFAULT_MODES
        self._modes = 0  # until it has been granted some
        self.params = NO_PARAMS
        self.echo = True
        self.hurried = False  # its rewind was not counted to the end, for its client wanted something else meanwhile
        self.placed = False  # its ATTACHED has been said; nothing is read for it before
        self.reader: Reader | None = None  # while it is live
        # If its rewind begins inside an entry: the cursor before that, and how many of its messages are left out.
        self.begun: tuple[int, int] | None = None
        self.cursor = -1  # serial of the last entry handed to the transport, until it went live; -1: not placed yet
        channel.count_attachment(1)

    @property
    def modes(self) -> int:
        return self._modes

    @modes.setter
    def modes(self, modes: int) -> None:
        if self.active:
            self.channel.recount(self._modes, modes)
        self._modes = modes

    @property
    def position(self) -> int:
        """Serial of the last entry handed to the transport."""
        # A reader knows entries only: of a quiet channel, it may not know where the client was told that it begins.
        return self.cursor if self.reader is None else max(self.cursor, self.reader.cursor)

    def omitted_after(self, cursor: int) -> int:
        """So many messages of the entry right after the cursor are not for it, because its rewind began behind them."""
        return self.begun[1] if self.begun is not None and self.begun[0] == cursor else 0

    def stop_reading(self) -> None:
        """Keep the place, but take nothing more from the stream."""
        if self.reader is not None:
            self.reader.stop()
            self.cursor = self.position
            self.reader = None

    def end(self) -> None:
        """Leave the channel. Calling it again does nothing."""
        if self.active:
            self.stop_reading()
            self.active = False
            self.channel.count_attachment(-1)
            self.channel.recount(self._modes, 0)

    def read_from(self, cursor: int, transport: Transport, wire: int, skip_origin: int, budget: int) -> bool:
        """Hand everything after ``cursor`` to the transport, and follow the channel from there.

        False: it is too much for one step, or not in memory; ``self.cursor`` says how far it went.
        """
        assert self.reader is None  # a second one would deliver everything twice
        channel, stream = self.channel, self.channel.stream(wire, self.name.full)
        self.cursor = cursor
        omit = self.omitted_after(cursor)
        shared = stream.place_after(cursor)
        place = None if omit else shared  # the frame of a part of an entry is no other reader's
        if place is None and channel.in_ring(cursor) and transport.queued < budget:
            self.cursor, frames, messages = channel.frames_after(
                cursor,
                stream.encoder,  # type: ignore[arg-type]  # opaque to the stream
                budget=budget if shared is None else 0,
                skip_origin=skip_origin,
                omit=omit,
            )
            if frames:
                transport.send_frames(frames)
                for shaper in shapers(transport, channel):
                    shaper.take_now(messages, len(frames))
            place = stream.place_after(self.cursor)
        if place is None:
            return False
        self.reader = transport.subscribe(stream, place, skip_origin=skip_origin, quiet_until=stream.head)
        return True


def shapers(transport: Transport, channel: ChannelView) -> list[Shaper]:
    """Those that have a say in what is delivered from the channel over this transport: mostly none."""
    return [shaper for shaper in (transport.shaper, channel.outgoing) if shaper is not None]
