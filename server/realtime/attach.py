"""The channels of one client: ATTACH, DETACH, SYNC, and the position where reading starts.

    on_attach -> attach: check, modes -> channel awake -> place: find the cursor -> attached: ATTACHED, deliver
                                                                                              |  in one step, no await
    further requests for the channel wait meanwhile, in their order (``busy``)                v
                                                             live, or catching up, ``behind`` (server/node/replay.py)

Part of the client's state machine (server/realtime/protocol.py): synchronous, sans-IO."""

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
    """Work that takes time, done by the surrounding server."""

    def locate(self, session: Session, attachment: Attachment, cursor: int, found: Callable[[bool], None]) -> None:
        """Report whether the journal still holds everything after ``cursor``."""

    def rewound(
        self, session: Session, attachment: Attachment, rewind: Rewind, found: Callable[[int, int, bool], None]
    ) -> None:
        """Report the cursor where a rewind begins, how many messages of the next entry to leave out, and whether less
        is held than the client asked for."""

    def hurry(self, attachment: Attachment) -> None:
        """If the search is still running, report the head at once instead."""

    def catch_up(self, attaching: Attaching) -> None:
        """Read on, from ring and journal, for the attachments that are ``behind``, until all are live.

        One batch per call; the next follows when the transport has taken it (``all_taken``).
        """


Step = Callable[["Attaching", str, dict[str, Any]], None]


class Attaching:
    """The requests for a client's channels, and their execution."""

    __slots__ = ("_busy", "_echo", "_reading", "behind", "discards", "session")

    def __init__(self, session: Session, reading: Reading, *, echo: bool, discards: bool) -> None:
        """
        Args:
            echo: the client also receives its own publishes.
            discards: the client may discard messages in transit when it attaches again; some libraries are known not
                to.
        """
        self.session = session
        self._reading = reading
        self._echo = echo
        self.discards = discards
        self._busy: dict[str, deque[tuple[Step, dict[str, Any]]]] | None = None  # channels with an unanswered ATTACH
        self.behind: deque[Attachment] | None = None  # catching up, next first; owned by the server; None if empty

    # requests of the client

    def on_attach(self, message: dict[str, Any]) -> None:
        text = fields.text(message, "channel")
        self._in_turn(text, Attaching._attach, message)

    def on_detach(self, message: dict[str, Any]) -> None:
        text = fields.text(message, "channel")
        self._in_turn(text, Attaching._detach, message)

    def on_sync(self, message: dict[str, Any]) -> None:
        """Refuse a request for the presence set. An ERROR would end the attachment, so an ATTACHED that changes nothing
        carries the refusal."""
        attachment = self.session.attachments.get(fields.text(message, "channel"))
        if attachment is not None and attachment.state is not State.STARTING:
            error = absent.refusal("SYNC", absent.PRESENCE)
            self._say_attached(attachment, attachment.position, resumed=True, error=error)

    def _in_turn(self, text: str, step: Step, message: dict[str, Any]) -> None:
        """Do it now, or after the pending ATTACH of this channel."""
        waiting = self._busy.get(text) if self._busy is not None else None
        if waiting is None:
            step(self, text, message)
        elif len(waiting) < limits.WAITING_STEPS:
            waiting.append((step, message))
            attachment = self.session.attachments.get(text)
            if attachment is not None:
                self._reading.hurry(attachment)  # the client no longer waits for the rewind
        else:
            error = LimitExceeded("too many requests wait for this channel", code=42910, status=429)
            self._refuse(text, error)

    def _begin(self, text: str) -> None:
        if self._busy is None:
            self._busy = {}
        self._busy[text] = deque()

    def _finish(self, text: str) -> None:
        """The ATTACH has been answered: run the requests that waited for it."""
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
            self._busy = None  # most connections attach once and then stay idle

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
        if earlier is not None:  # end it, so that its pending reads are not delivered alongside those of the new one
            self._leave(text)
            if earlier.requested & Flag.SUBSCRIBE:  # even if it has no read permission now
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
        """Check the limits before one more attachment. Raises: LimitExceeded 90010, or the error of the app's limit."""
        session, most = self.session, self.session.allowance.channels
        if len(session.attachments) >= most:
            raise LimitExceeded(f"the connection is attached to {most} channels, the maximum", code=90010, status=400)
        session.services.hub.check_attachments(session.identity.app_id)

    def _permitted(self, text: str) -> tuple[ChannelName, int]:
        """The channel's name, and the permitted operations there. Raises: BadRequest."""
        name = parse_channel(text)
        return name, self.session.identity.capability.operations(name.name)

    # where reading begins

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
                # The messages between the two were in transit when it sent the ATTACH, and are passed on:
                # docs/decisions/0024.
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
        elif attachment.cursor >= 0:  # already attached: it continues from its cursor
            self._attached(attachment, attachment.cursor, resumed=again)
        else:
            self._attached(attachment, channel.head, resumed=False)

    def _resume(
        self, attachment: Attachment, cursor: int, error: Callable[[], PubSubError | None] = lambda: None
    ) -> None:
        """Continue after the cursor, or report that continuity is lost; ``error`` gives a further error to report."""

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
        """Continuity is lost: tell the client, and continue from the head."""
        error = PubSubError("messages after the channelSerial have expired", code=90003, status=404)
        self._attached(attachment, attachment.channel.head, resumed=False, error=error)

    def _attached(
        self, attachment: Attachment, cursor: int, *, resumed: bool, error: PubSubError | None = None
    ) -> None:
        """Send ATTACHED, then deliver from the cursor on; one indivisible step."""
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

    # delivery

    def deliver(self, attachment: Attachment, cursor: int) -> None:
        """Go live if everything after the cursor is in memory, else catch up in the background."""
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
        """The origin whose entries it must not receive: its own client's, if that wants no echo; 0: none."""
        return 0 if self._echo and attachment.echo else connection_origin(self.session.connection.id)

    def all_taken(self) -> None:
        """The transport has taken the last catch-up batch: continue."""
        if self.behind is not None:
            self._reading.catch_up(self)

    def fell_behind(self, reader: object) -> None:
        """A reader was so slow that the stream no longer holds its next entries."""
        for attachment in self.session.attachments.values():
            if attachment.reader is reader:
                attachment.fall_behind()
                self.deliver(attachment, attachment.cursor)
                return

    def discontinued(self, attachment: Attachment, lag: Discontinuity) -> None:
        """Its next entries are no longer held anywhere: tell the client, and continue from the head."""
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
            if self.behind and attachment in self.behind:  # otherwise repeated attaching and detaching would fill it
                self.behind.remove(attachment)

    def _refuse(self, text: str, error: PubSubError) -> None:
        self._leave(text)
        self.session.send({"action": Action.ERROR, "channel": text, "error": error.info()})
        self._finish(text)

    def _unattachable(self, attachment: Attachment, error: PubSubError) -> None:
        """The channel's log cannot be read at the moment; the client retries by itself."""
        text = attachment.name.full
        self._leave(text)
        self.session.send({"action": Action.DETACHED, "channel": text, "error": error.info()})
        self._finish(text)

    # new credentials

    def regrant(self) -> None:
        """Update the modes of all attachments to the new credentials, and tell the client of each change.

        An attachment that loses read permission keeps its cursor, and continues after it when it regains the
        permission. Other changes do not affect reading.
        """
        for text, attachment in list(self.session.attachments.items()):
            name, operations = self._permitted(text)
            modes = granted_modes(attachment.requested, operations) & ~ABSENT_MODES
            had, taken = attachment.modes, attachment.modes & ~modes
            if not modes:
                self._refuse(text, denied(name.name, attachment.requested, "the new"))
            elif modes != had:
                attachment.modes = modes
                if attachment.state is not State.STARTING:  # otherwise the coming ATTACHED says so
                    if taken & Flag.SUBSCRIBE:
                        attachment.fall_silent()
                    self._tell_change(attachment, had)

    def _tell_change(self, attachment: Attachment, had: int) -> None:
        """Tell the client that the modes have changed."""

        def why() -> PubSubError | None:  # evaluated when it is sent: more may have changed by then
            taken = had & ~attachment.modes
            reason = f"the new credentials do not permit {mode_names(taken)} on {attachment.name.name!r}"
            return AuthError(reason, code=40160) if taken else None

        if attachment.modes & ~had & Flag.SUBSCRIBE:
            attachment.happens(Event.RESTARTS)  # a read in progress would come too early
            self._begin(attachment.name.full)
            self._resume(attachment, attachment.cursor, why)
        else:
            # Libraries report only an ATTACHED without RESUMED to the application, and it has to know that no more
            # messages come.
            resumed = not had & ~attachment.modes & Flag.SUBSCRIBE
            self._say_attached(attachment, attachment.position, resumed=resumed, error=why())


def _cursor_of(channel: ChannelView, text: str) -> int | None:
    """The cursor, if the serial belongs to this log, to one of its lives that this server knows, and is not ahead."""
    try:
        serial, series = parse_serial(text)
    except ValueError:
        return None
    known = series == channel.policy.series_of(serial) and channel.partition.has_given_out(serial)
    return serial if known else None
