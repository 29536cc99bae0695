"""One client's attachment to one channel: its position, and how it reads on from there.

                +--FOLLOWS----> LIVE      a reader of one of the channel's streams
                |               |  ^
    STARTING ---+         LAGS  |  |  FOLLOWS
       ^        |               v  |
       |        +--LAGS-------> BEHIND    reads ring and journal, a batch at a time
       |        |
       |        +--SILENCED---> SILENT    no read permission; also reached from LIVE and BEHIND by SILENCED
       |                          |
       +------RESTARTS------------+       from any state: LEAVES, to ENDED

STARTING lasts until ATTACHED is sent: the channel wakes, or the starting position is searched for. ATTACHED precedes
all other output of the channel, because both are queued on one socket, in order."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from engine.channelview import ChannelView
from engine.names import ChannelName
from engine.variant import Variant
from server.realtime import shaping
from server.realtime.modes import DEFAULT_MODES
from server.realtime.params import NO_PARAMS
from server.realtime.transport import StreamReader, Transport


class State(Enum):
    __hash__ = object.__hash__  # members are singletons; Enum's own hashes the name, in Python
    STARTING = "its ATTACHED has not been said; nothing is read for it"
    LIVE = "a stream has all that comes next"
    BEHIND = "what comes next is read from ring or journal"
    SILENT = "it may not read, and keeps its place"
    ENDED = "it has left the channel"


class Event(Enum):
    __hash__ = object.__hash__
    FOLLOWS = "a stream has all that comes next for it"
    LAGS = "no stream has what comes next for it"
    SILENCED = "it may not read"
    RESTARTS = "it may read again: where from is to be looked for"
    LEAVES = "it leaves the channel"


TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.STARTING: {
        Event.FOLLOWS: State.LIVE,
        Event.LAGS: State.BEHIND,
        Event.SILENCED: State.SILENT,
        Event.LEAVES: State.ENDED,
    },
    State.LIVE: {
        Event.LAGS: State.BEHIND,
        Event.SILENCED: State.SILENT,
        Event.LEAVES: State.ENDED,
    },
    State.BEHIND: {
        Event.FOLLOWS: State.LIVE,
        Event.LAGS: State.BEHIND,  # one more batch, and still behind
        Event.SILENCED: State.SILENT,
        Event.LEAVES: State.ENDED,
    },
    State.SILENT: {
        Event.RESTARTS: State.STARTING,
        Event.LEAVES: State.ENDED,
    },
    State.ENDED: {
        Event.LEAVES: State.ENDED,
    },
}

IMPOSSIBLE: Mapping[tuple[State, Event], str] = {
    (State.STARTING, Event.RESTARTS): "where it begins is being looked for already",
    (State.LIVE, Event.FOLLOWS): "a second reader would deliver everything twice",
    (State.LIVE, Event.RESTARTS): "what its reader has would come twice",
    (State.BEHIND, Event.RESTARTS): "what is being read for it would come twice",
    (State.SILENT, Event.FOLLOWS): "it may not read",
    (State.SILENT, Event.LAGS): "it may not read",
    (State.SILENT, Event.SILENCED): "it is silent already",
    (State.ENDED, Event.FOLLOWS): "it is no reader of the channel any more",
    (State.ENDED, Event.LAGS): "it is no reader of the channel any more",
    (State.ENDED, Event.SILENCED): "it is no reader of the channel any more",
    (State.ENDED, Event.RESTARTS): "a client that comes back has another attachment",
}


class Attachment:
    """A client's attachment to a channel."""

    __slots__ = (
        "_modes",
        "begun",
        "channel",
        "cursor",
        "hurried",
        "name",
        "params",
        "reader",
        "requested",
        "state",
    )

    def __init__(self, name: ChannelName, channel: ChannelView) -> None:
        self.name = name
        self.channel = channel
        self.state = State.STARTING
        self.requested = DEFAULT_MODES
        self._modes = 0  # until modes are granted
        self.params = NO_PARAMS
        self.hurried = False  # the count for its rewind was cut short by another request
        self.reader: StreamReader | None = None  # while LIVE
        # If its rewind begins inside an entry: the cursor before that entry, and how many of its messages to leave out.
        self.begun: tuple[int, int] | None = None
        self.cursor = -1  # serial of the last entry handed to the transport, until it went live; -1: not placed yet
        channel.count_attachment(1)

    @property
    def active(self) -> bool:
        return self.state is not State.ENDED

    @property
    def modes(self) -> int:
        return self._modes

    @modes.setter
    def modes(self, modes: int) -> None:
        if self.active:
            self.channel.recount(self._modes, modes)
        self._modes = modes

    @property
    def echo(self) -> bool:
        """Does the client receive its own publishes, according to the params?"""
        return self.params.get("echo") != "false"

    @property
    def position(self) -> int:
        """Serial of the last entry handed to the transport."""
        # A reader knows only entries: on a quiet channel it may not know the start position that the client was told.
        return self.cursor if self.reader is None else max(self.cursor, self.reader.cursor)

    def variant(self, wire: int) -> Variant:
        """The stream variant it reads, in the format of its connection."""
        return Variant(wire, self.name.full)

    def omitted_after(self, cursor: int) -> int:
        """How many messages of the entry right after the cursor to leave out, because the rewind began behind them."""
        return self.begun[1] if self.begun is not None and self.begun[0] == cursor else 0

    def happens(self, event: Event) -> None:
        """Go to the next state."""
        following = TRANSITIONS[self.state].get(event)
        assert following is not None, f"{event.name} while {self.state.name}: {IMPOSSIBLE[self.state, event]}"
        self.state = following
        assert self.reader is None or following is State.LIVE

    def fall_behind(self) -> None:
        """The stream no longer holds its next entries."""
        self._keep_place()
        self.happens(Event.LAGS)

    def fall_silent(self) -> None:
        """Read permission is gone: keep the position, and stop reading."""
        self._keep_place()
        self.happens(Event.SILENCED)

    def end(self) -> None:
        """Leave the channel. Idempotent."""
        if self.active:
            self.channel.count_attachment(-1)
            self.channel.recount(self._modes, 0)
        self._keep_place()
        self.happens(Event.LEAVES)

    def _keep_place(self) -> None:
        if self.reader is not None:
            self.reader.stop()
            self.cursor = self.position
            self.reader = None

    def read_from(self, cursor: int, transport: Transport, variant: Variant, skip_origin: int, budget: int) -> bool:
        """Hand everything after ``cursor`` to the transport, and follow the channel from there.

        False: too much for one step, or not in memory; ``self.cursor`` says how far it got.
        """
        assert self.reader is None  # a second reader would deliver everything twice
        channel, stream = self.channel, self.channel.stream(variant)
        self.cursor = cursor
        omit = self.omitted_after(cursor)
        shared = stream.place_after(cursor)
        place = None if omit else shared  # no other reader can share the frame of a partial entry
        if place is None and channel.in_ring(cursor) and transport.queued < budget:
            self.cursor, frames, messages = channel.frames_after(
                cursor,
                stream.encoder,  # type: ignore[arg-type]  # opaque to the stream
                budget=budget if shared is None else 0,
                skip_origin=skip_origin,
                omit=omit,
            )
            if frames:
                shaping.hand_over(transport, channel, frames, messages)
            place = stream.place_after(self.cursor)
        if place is None:
            self.happens(Event.LAGS)
            return False
        reader = transport.subscribe(stream, place, skip_origin=skip_origin, quiet_until=stream.head)
        self.happens(Event.FOLLOWS)
        self.reader = reader
        return True
