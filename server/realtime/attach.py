"""The channels of one client: it comes to them and leaves them, by ATTACH, DETACH, SYNC; and from where it reads.

    on_attach -> attach: may it, and how? -> channel awake -> place: where does it begin? -> attached: ATTACHED, deliver
                                                                                              |  in one step, no await
    what else is asked of the channel meanwhile waits, in its own order (``busy``)            v
                                                             live, or read on for it, ``behind`` (server/node/replay.py)

A part of the client's state machine (server/realtime/protocol.py): synchronous, sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from engine import absent, limits
from engine.channelview import ChannelView
from engine.errors import AuthError, Discontinuity, LimitExceeded, PubSubError
from engine.names import ChannelName, parse_channel
from ext.text.serial import connection_origin, parse_serial
from server.realtime import accepting, fields, shaping
from server.realtime.actions import Action, Flag
from server.realtime.attachment import Attachment, Event, State
from server.realtime.modes import (
    ABSENT_MODES,
    DEFAULT_MODES,
    available_modes,
    denied,
    granted_modes,
    mode_names,
    requested_modes,
)
from server.realtime.params import Rewind, channel_params, parse_rewind
from server.realtime.session import Session


class Reading(Protocol):
    """What takes a while, and is done by the server around it."""

    def locate(self, session: Session, attachment: Attachment, cursor: int, found: Callable[[bool], None]) -> None:
        """Tell whether everything after ``cursor`` is still held, by the journal."""

    def rewound(
        self, session: Session, attachment: Attachment, rewind: Rewind, found: Callable[[int, int, bool], None]
    ) -> None:
        """Tell the cursor from which a rewind begins, how many messages of the entry after it are left out, and whether
        less is held than was asked for."""

    def hurry(self, attachment: Attachment) -> None:
        """If that is still being found out: tell the head instead, at once."""

    def catch_up(self, attaching: Attaching) -> None:
        """Read on, from ring and journal, for those of its attachments that are ``behind``, until all are live.

        One batch; the next one, once the transport has taken that (``all_taken``).
        """


Step = Callable[["Attaching", str, dict[str, Any]], None]


class Attaching:
    """Everything that is asked of a client's channels, and done for them."""

    __slots__ = ("_busy", "_echo", "_reading", "behind", "discards", "session")

    def __init__(self, session: Session, reading: Reading, *, echo: bool, discards: bool) -> None:
        """
        Args:
            echo: what the client publishes comes back to it, too.
            discards: so may what is on its way when it attaches anew; a library may be known not to.
        """
        self.session = session
        self._reading = reading
        self._echo = echo
        self.discards = discards
        self._busy: dict[str, deque[tuple[Step, dict[str, Any]]]] | None = None  # channels whose ATTACH is not answered
        self.behind: deque[Attachment] | None = None  # those that catch up, next first: the server's; None: none does

    # what the client asks for

    def on_attach(self, message: dict[str, Any]) -> None:
        text = fields.text(message, "channel")
        self._in_turn(text, Attaching._attach, message)

    def on_detach(self, message: dict[str, Any]) -> None:
        text = fields.text(message, "channel")
        self._in_turn(text, Attaching._detach, message)

    def on_sync(self, message: dict[str, Any]) -> None:
        """Asked for who is present. An ERROR would end what is there, so it is told by an ATTACHED that changes
        nothing."""
        attachment = self.session.attachments.get(fields.text(message, "channel"))
        if attachment is not None and attachment.state is not State.STARTING:
            error = absent.refusal("SYNC", absent.PRESENCE)
            self._say_attached(attachment, attachment.position, resumed=True, error=error)

    def _in_turn(self, text: str, step: Step, message: dict[str, Any]) -> None:
        """Do it now, or after the ATTACH of this channel that is still being worked on."""
        waiting = self._busy.get(text) if self._busy is not None else None
        if waiting is None:
            step(self, text, message)
        elif len(waiting) < limits.WAITING_STEPS:
            waiting.append((step, message))
            attachment = self.session.attachments.get(text)
            if attachment is not None:
                self._reading.hurry(attachment)  # nobody wants to wait for the rewind any more
        else:
            error = LimitExceeded("too many requests wait for this channel", code=42910, status=429)
            self._refuse(text, error)

    def _begin(self, text: str) -> None:
        if self._busy is None:
            self._busy = {}
        self._busy[text] = deque()

    def _finish(self, text: str) -> None:
        """The ATTACH has been answered: go on with what waited for it."""
        if self._busy is None:
            return
        waiting = self._busy.pop(text, None)
        while waiting and self.session.open:
            step, message = waiting.popleft()
            step(self, text, message)
            if self._busy and text in self._busy:  # another ATTACH, which has to wait itself
                self._busy[text].extend(waiting)
                return
        if not self._busy:
            self._busy = None  # most connections attach once, and then sit still

    def _detach(self, text: str, message: dict[str, Any]) -> None:
        self._leave(text)
        self.session.send({"action": Action.DETACHED, "channel": text})

    def _attach(self, text: str, message: dict[str, Any]) -> None:
        session, hub = self.session, self.session.services.hub
        try:
            name, operations = self._permitted(text)
            flags = fields.integer(message, "flags", limit=1 << 32, default=0)
            params = channel_params(name, message.get("params"))
            rewind = parse_rewind(params)
            named = requested_modes(flags, params)
            requested = named or DEFAULT_MODES
            permitted = granted_modes(requested, operations)
            if not permitted:
                raise denied(name.name, requested, "the")
            granted = available_modes(permitted, named=named > 0)
            earlier = session.attachments.get(text)
            if earlier is None:
                self._check_room()
            serial = fields.optional_text(message, "channelSerial")
            fresh = (earlier is None or earlier.hurried) and serial is None and not flags & Flag.ATTACH_RESUME
            channel = hub.view(session.identity.app_id, name.name)
        except PubSubError as error:
            self._refuse(text, error)
            return
        name = channel.shared_name(name)
        text = name.full
        attachment = Attachment(name, channel)
        if earlier is not None:  # it ends, so that what is being read for it is not handed out beside the new one's
            self._leave(text)
            if earlier.requested & Flag.SUBSCRIBE:  # also if it may not read just now
                attachment.cursor = earlier.cursor
                attachment.begun = earlier.begun
        accepting.revoke(session, text)
        session.attachments[text] = attachment
        attachment.requested = requested
        attachment.modes = granted
        attachment.params = params
        self._begin(text)
        again = serial is None and bool(flags & Flag.ATTACH_RESUME)
        hub.when_awake(channel, lambda: self._place(attachment, serial, rewind if fresh else None, again))

    def _check_room(self) -> None:
        """May it attach to one more? Raises: LimitExceeded 90010, or as all of its app share it."""
        session, most = self.session, self.session.allowance.channels
        if len(session.attachments) >= most:
            raise LimitExceeded(f"the connection is attached to {most} channels, the maximum", code=90010, status=400)
        session.services.hub.check_attachments(session.identity.app_id)

    def _permitted(self, text: str) -> tuple[ChannelName, int]:
        """The channel's name, and what may be done there. Raises: BadRequest."""
        name = parse_channel(text)
        return name, self.session.identity.capability.operations(name.name)

    # where it begins

    def _place(self, attachment: Attachment, serial: str | None, rewind: Rewind | None, again: bool) -> None:
        """The channel is awake: find where the attachment begins to read."""
        if not attachment.active:
            return
        channel = attachment.channel
        if channel.failure is not None:
            self._unattachable(attachment, channel.failure)
            return
        if serial is not None:
            cursor = _cursor_of(channel, serial)
            if cursor is None:
                self._lost(attachment)
            elif not self.discards and cursor <= attachment.cursor:
                # What lies between the two was on its way when it asked, and is handed on: docs/decisions/0024.
                self._attached(attachment, attachment.cursor, resumed=True)
            else:
                self._resume(attachment, cursor)
        elif rewind is not None:

            def rewound(cursor: int, omit: int, cut: bool) -> None:
                if attachment.active:
                    attachment.begun = (cursor, omit) if omit else None
                    error = None
                    if cut:
                        error = PubSubError("the channel holds less than the rewind requested", code=90004, status=404)
                    self._attached(attachment, cursor, resumed=False, error=error)

            self._reading.rewound(self.session, attachment, rewind, rewound)
        elif attachment.cursor >= 0:  # attached already: it reads on from where it was
            self._attached(attachment, attachment.cursor, resumed=again)
        else:
            self._attached(attachment, channel.head, resumed=False)

    def _resume(
        self, attachment: Attachment, cursor: int, error: Callable[[], PubSubError | None] = lambda: None
    ) -> None:
        """Go on after the cursor, or tell that it can't be done; ``error`` is what else there is to tell."""

        def located(held: bool) -> None:
            if attachment.active:
                if held:
                    self._attached(attachment, cursor, resumed=True, error=error())
                else:
                    self._lost(attachment)

        if attachment.channel.in_ring(cursor):
            located(True)
        else:
            self._reading.locate(self.session, attachment, cursor, located)

    def _lost(self, attachment: Attachment) -> None:
        """Continuity is lost, and the client is told so; it goes on from now."""
        error = PubSubError("messages after the channelSerial have expired", code=90003, status=404)
        self._attached(attachment, attachment.channel.head, resumed=False, error=error)

    def _attached(
        self, attachment: Attachment, cursor: int, *, resumed: bool, error: PubSubError | None = None
    ) -> None:
        """Say ATTACHED, then deliver from the cursor on; one indivisible step."""
        channel, text = attachment.channel, attachment.name.full
        if attachment.modes & Flag.SUBSCRIBE and not channel.has_stream_for(attachment.variant(self.session.wire)):
            most = limits.STREAMS_PER_CHANNEL
            error = LimitExceeded(f"the channel is followed under {most} names and formats, the maximum")
            self._refuse(text, error)
            return
        self._say_attached(attachment, cursor, resumed=resumed, error=error)
        self.deliver(attachment, cursor)
        self._finish(text)

    def _say_attached(self, attachment: Attachment, cursor: int, *, resumed: bool, error: PubSubError | None) -> None:
        channel = attachment.channel
        flags = int(attachment.modes)
        if resumed:
            flags |= Flag.RESUMED
        if cursor < channel.ring.head and attachment.modes & Flag.SUBSCRIBE and attachment.reader is None:
            flags |= Flag.HAS_BACKLOG
        message: dict[str, Any] = {
            "action": Action.ATTACHED,
            "channel": attachment.name.full,
            "channelSerial": channel.policy.position(cursor),
            "flags": flags,
        }
        if attachment.params:
            message["params"] = attachment.params
        if error is not None:
            message["error"] = error.info()
        self.session.send(message)

    # reading on

    def deliver(self, attachment: Attachment, cursor: int) -> None:
        """Go live if everything after the cursor is at hand, else have it read on behind the scenes."""
        session = self.session
        attachment.cursor = cursor
        if not attachment.modes & Flag.SUBSCRIBE:
            attachment.happens(Event.SILENCED)
            return
        budget = shaping.batch_bytes(session.transport, attachment.channel)
        variant = attachment.variant(session.wire)
        if attachment.read_from(cursor, session.transport, variant, self.skipped_by(attachment), budget):
            return
        catching_up = self.behind is not None
        if self.behind is None:
            self.behind = deque()
        if attachment not in self.behind:
            self.behind.append(attachment)
        if not catching_up:
            self._reading.catch_up(self)

    def skipped_by(self, attachment: Attachment) -> int:
        """The origin whose entries are not for it: its own client, if that wants no echo; 0: none."""
        return 0 if self._echo and attachment.echo else connection_origin(self.session.connection.id)

    def all_taken(self) -> None:
        """The transport has taken what it was given to catch up: go on."""
        if self.behind is not None:
            self._reading.catch_up(self)

    def fell_behind(self, reader: object) -> None:
        """A reader was so slow that the stream no longer holds what comes next for it."""
        for attachment in self.session.attachments.values():
            if attachment.reader is reader:
                attachment.fall_behind()
                self.deliver(attachment, attachment.cursor)
                return

    def discontinued(self, attachment: Attachment, lag: Discontinuity) -> None:
        """What comes next for it is held nowhere any more: tell, and go on from now."""
        if attachment.active:
            error = PubSubError(str(lag), code=90003, status=404)
            self._attached(attachment, attachment.channel.head, resumed=False, error=error)

    # leaving

    def _leave(self, text: str) -> None:
        """End the attachment, if there is one."""
        accepting.revoke(self.session, text)
        attachment = self.session.attachments.pop(text, None)
        if attachment is not None:
            attachment.end()
            if self.behind and attachment in self.behind:  # else one that comes and goes would fill it
                self.behind.remove(attachment)

    def _refuse(self, text: str, error: PubSubError) -> None:
        self._leave(text)
        self.session.send({"action": Action.ERROR, "channel": text, "error": error.info()})
        self._finish(text)

    def _unattachable(self, attachment: Attachment, error: PubSubError) -> None:
        """Its log cannot be read just now; the client tries again by itself."""
        text = attachment.name.full
        self._leave(text)
        self.session.send({"action": Action.DETACHED, "channel": text, "error": error.info()})
        self._finish(text)

    # other credentials

    def regrant(self) -> None:
        """What it may do on the channels that it is attached to, and is told if that differs.

        Who may no longer read keeps its cursor, and goes on after it when it may again. Reading itself is not touched
        by what else is given or taken.
        """
        for text, attachment in list(self.session.attachments.items()):
            name, operations = self._permitted(text)
            modes = granted_modes(attachment.requested, operations) & ~ABSENT_MODES
            had, taken = attachment.modes, attachment.modes & ~modes
            if not modes:
                self._refuse(text, denied(name.name, attachment.requested, "the new"))
            elif modes != had:
                attachment.modes = modes
                if attachment.state is not State.STARTING:  # else the ATTACHED that is to come says so
                    if taken & Flag.SUBSCRIBE:
                        attachment.fall_silent()
                    self._tell_change(attachment, had)

    def _tell_change(self, attachment: Attachment, had: int) -> None:
        """It has other modes than it had."""

        def why() -> PubSubError | None:  # asked again when it can be told: more may have changed by then
            taken = had & ~attachment.modes
            reason = f"the new credentials do not permit {mode_names(taken)} on {attachment.name.name!r}"
            return AuthError(reason, code=40160) if taken else None

        if attachment.modes & ~had & Flag.SUBSCRIBE:
            attachment.happens(Event.RESTARTS)  # what was being read for it comes too early
            self._begin(attachment.name.full)
            self._resume(attachment, attachment.cursor, why)
        else:
            # Libraries tell an application of an ATTACHED without RESUMED only: it has to know that nothing comes any
            # more.
            resumed = not had & ~attachment.modes & Flag.SUBSCRIBE
            self._say_attached(attachment, attachment.position, resumed=resumed, error=why())


def _cursor_of(channel: ChannelView, text: str) -> int | None:
    """The cursor, if it is one of this very log, given out by a life of it that this server knows, and not ahead."""
    try:
        serial, series = parse_serial(text)
    except ValueError:
        return None
    known = series == channel.policy.series_of(serial) and channel.partition.has_given_out(serial)
    return serial if known else None
