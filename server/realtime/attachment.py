"""One client's attachment to one channel: its place in the channel, and how it reads on from there.

    starting --channel awake, position known--> live       a reader of one of the channel's streams
                                                 | ^
              fell out of the stream             v |       caught up
                                                catching up: reads ring and journal, a batch at a time

The ATTACHED goes out before anything else of the channel, because both are queued on one socket, in this order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from engine.channelview import ChannelView
from engine.names import ChannelName
from ext.net.ingest import Ingest
from ext.net.shaper import Shaper
from server.realtime.modes import DEFAULT_MODES
from server.realtime.params import NO_PARAMS

if TYPE_CHECKING:
    from ext.log.ring import Stream


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
