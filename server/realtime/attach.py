"""One client comes to a channel and leaves it: ATTACH, DETACH, SYNC, and from where it reads.

    on_attach -> attach: may it, and how? -> channel awake -> place: where does it begin? -> attached: ATTACHED, deliver
                                                                                              |  in one step, no await
    what else is asked of the channel meanwhile waits, in its own order (``busy``)            v
                                                             live, or read on for it, ``behind`` (server/node/replay.py)

All of it is a part of the client's state machine (server/realtime/protocol.py): synchronous, sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine import absent, limits
from engine.channelview import ChannelView
from engine.errors import AuthError, Discontinuity, LimitExceeded, PubSubError
from engine.names import ChannelName, parse_channel
from ext.text.serial import parse_serial
from server.realtime import accepting, fields
from server.realtime.actions import Action, Flag
from server.realtime.attachment import Attachment, Event, State, shapers
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

if TYPE_CHECKING:
    from server.realtime.protocol import ClientProtocol


def on_attach(client: ClientProtocol, message: dict[str, Any], wire_format: int) -> None:
    text = fields.text(message, "channel")
    _in_turn(client, text, lambda: _attach(client, text, message))


def on_detach(client: ClientProtocol, message: dict[str, Any], wire_format: int) -> None:
    text = fields.text(message, "channel")

    def detach() -> None:
        _leave(client, text)
        client.send({"action": Action.DETACHED, "channel": text})

    attachment = client.attachments.get(text)
    if attachment is not None and client.busy is not None and text in client.busy:
        _in_turn(client, text, detach)
    else:
        detach()


def on_sync(client: ClientProtocol, message: dict[str, Any], wire_format: int) -> None:
    """Asked for who is present. An ERROR would end what is there, so it is told by an ATTACHED that changes nothing."""
    text = fields.text(message, "channel")
    attachment = client.attachments.get(text)
    if attachment is not None and attachment.state is not State.STARTING:
        error = absent.refusal("SYNC", absent.PRESENCE)
        _say_attached(client, attachment, attachment.position, resumed=True, error=error)


def _attach(client: ClientProtocol, text: str, message: dict[str, Any]) -> None:
    try:
        name, operations = _permitted(client, text)
        flags = fields.integer(message, "flags", limit=1 << 32, default=0)
        params = channel_params(name, message.get("params"))
        rewind = parse_rewind(params)
        named = requested_modes(flags, params)
        requested = named or DEFAULT_MODES
        permitted = granted_modes(requested, operations)
        if not permitted:
            raise denied(name.name, requested, "the")
        granted = available_modes(permitted, named=named > 0)
        earlier = client.attachments.get(text)
        most = client.allowance.channels
        if earlier is None and len(client.attachments) >= most:
            raise LimitExceeded(
                f"the connection is attached to {most} channels, the most allowed", code=90010, status=400
            )
        if earlier is None:
            client.services.hub.check_attachments(client.identity.app_id)
        serial = fields.optional_text(message, "channelSerial")
        fresh = (earlier is None or earlier.hurried) and serial is None and not flags & Flag.ATTACH_RESUME
        channel = client.services.hub.view(client.identity.app_id, name.name)
    except PubSubError as error:
        _refuse_channel(client, text, error)
        return
    name = channel.shared_name(name)
    text = name.full
    attachment = Attachment(name, channel)
    if earlier is not None:  # it ends, so that what is being read for it is not handed out beside the new one's
        _leave(client, text)
        if earlier.requested & Flag.SUBSCRIBE:  # also if it may not read just now
            attachment.cursor = earlier.cursor
            attachment.begun = earlier.begun
    accepting.revoke(client, text)
    client.attachments[text] = attachment
    attachment.requested = requested
    attachment.modes = granted
    attachment.params = params
    _begin(client, text)
    again = serial is None and bool(flags & Flag.ATTACH_RESUME)
    client.services.hub.when_awake(
        channel, lambda: _place(client, attachment, serial, rewind if fresh else None, again)
    )


def _place(
    client: ClientProtocol, attachment: Attachment, serial: str | None, rewind: Rewind | None, again: bool
) -> None:
    """The channel is awake: find where the attachment begins to read."""
    if not (client.open and attachment.active):
        return
    channel = attachment.channel
    if channel.failure is not None:
        _unattachable(client, attachment, channel.failure)
        return
    if serial is not None:
        cursor = _cursor_of(client, channel, serial)
        if cursor is None:
            _lost(client, attachment)
        elif not client.discards and cursor <= attachment.cursor:
            # What lies between the two was on its way when it asked, and is handed on: docs/decisions/0024.
            _attached(client, attachment, attachment.cursor, resumed=True)
        else:
            _resume(client, attachment, cursor)
    elif rewind is not None:

        def rewound(cursor: int, omit: int, cut: bool) -> None:
            if client.open and attachment.active:
                attachment.begun = (cursor, omit) if omit else None
                error = None
                if cut:
                    error = PubSubError("less is held than the rewind asked for", code=90004, status=404)
                _attached(client, attachment, cursor, resumed=False, error=error)

        client.services.rewound(client, attachment, rewind, rewound)
    elif attachment.cursor >= 0:  # attached already: it reads on from where it was
        _attached(client, attachment, attachment.cursor, resumed=again)
    else:
        _attached(client, attachment, channel.head, resumed=False)


def _resume(
    client: ClientProtocol, attachment: Attachment, cursor: int, error: Callable[[], PubSubError | None] = lambda: None
) -> None:
    """Go on after the cursor, or tell that it can't be done; ``error`` is what else there is to tell."""

    def located(held: bool) -> None:
        if client.open and attachment.active:
            if held:
                _attached(client, attachment, cursor, resumed=True, error=error())
            else:
                _lost(client, attachment)

    if attachment.channel.in_ring(cursor):
        located(True)
    else:
        client.services.locate(client, attachment, cursor, located)


def _unattachable(client: ClientProtocol, attachment: Attachment, error: PubSubError) -> None:
    """Its log cannot be read just now; the client tries again by itself."""
    text = attachment.name.full
    _leave(client, text)
    client.send({"action": Action.DETACHED, "channel": text, "error": error.info()})
    _finish(client, text)


def _cursor_of(client: ClientProtocol, channel: ChannelView, text: str) -> int | None:
    """The cursor, if it is one of this very log, given out by a life of it that this server knows, and not ahead."""
    try:
        serial, series = parse_serial(text)
    except ValueError:
        return None
    known = series == channel.policy.series_of(serial) and channel.partition.has_given_out(serial)
    return serial if known else None


def _lost(client: ClientProtocol, attachment: Attachment) -> None:
    """Continuity is lost, and the client is told so; it goes on from now."""
    error = PubSubError("messages after the channelSerial have expired", code=90003, status=404)
    _attached(client, attachment, attachment.channel.head, resumed=False, error=error)


def _attached(
    client: ClientProtocol, attachment: Attachment, cursor: int, *, resumed: bool, error: PubSubError | None = None
) -> None:
    """Say ATTACHED, then deliver from the cursor on; one indivisible step."""
    channel, text = attachment.channel, attachment.name.full
    if attachment.modes & Flag.SUBSCRIBE and not channel.has_stream_for(client.wire, text):
        most = limits.STREAMS_PER_CHANNEL
        error = LimitExceeded(f"the channel is followed under {most} names and formats, the most it may be")
        _refuse_channel(client, text, error)
        return
    _say_attached(client, attachment, cursor, resumed=resumed, error=error)
    deliver(client, attachment, cursor)
    _finish(client, text)


def _say_attached(
    client: ClientProtocol, attachment: Attachment, cursor: int, *, resumed: bool, error: PubSubError | None
) -> None:
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
    client.send(message)


def deliver(client: ClientProtocol, attachment: Attachment, cursor: int) -> bool:
    """Go live if everything after the cursor is at hand, else have it read on behind the scenes."""
    attachment.cursor = cursor
    if not attachment.modes & Flag.SUBSCRIBE:
        attachment.happens(Event.SILENCED)
        return True
    skip = 0 if client.echo and attachment.echo else client.origin
    budget = limits.SHAPED_BYTES if shapers(client.transport, attachment.channel) else limits.REPLAY_BYTES
    if attachment.read_from(cursor, client.transport, client.wire, skip, budget):
        return True
    if client.behind is None:
        client.behind = deque()
    if attachment not in client.behind:
        client.behind.append(attachment)
    client.services.catch_up(client, attachment)
    return False


def fell_behind(client: ClientProtocol, reader: object) -> None:
    """A reader was so slow that the stream no longer holds what comes next for it."""
    for attachment in client.attachments.values():
        if attachment.reader is reader:
            attachment.fall_behind()
            deliver(client, attachment, attachment.cursor)
            return


def discontinued(client: ClientProtocol, attachment: Attachment, lag: Discontinuity) -> None:
    """What comes next for it is held nowhere any more: tell, and go on from now."""
    if client.open and attachment.active:
        error = PubSubError(str(lag), code=90003, status=404)
        _attached(client, attachment, attachment.channel.head, resumed=False, error=error)


def _permitted(client: ClientProtocol, text: str) -> tuple[ChannelName, int]:
    """The same for one who attaches, which is rarely asked again."""
    name = parse_channel(text)
    return name, client.identity.capability.operations(name.name)


def _in_turn(client: ClientProtocol, text: str, step: Callable[[], None]) -> None:
    """Do it now, or after the ATTACH of this channel that is still being worked on."""
    waiting = client.busy.get(text) if client.busy is not None else None
    if waiting is None:
        step()
    elif len(waiting) < limits.WAITING_STEPS:
        waiting.append(step)
        attachment = client.attachments.get(text)
        if attachment is not None:
            client.services.hurry(attachment)  # nobody wants to wait for the rewind any more
    else:
        _refuse_channel(client, text, LimitExceeded("too many requests wait for this channel", code=42910, status=429))


def _begin(client: ClientProtocol, text: str) -> None:
    if client.busy is None:
        client.busy = {}
    client.busy[text] = deque()


def _finish(client: ClientProtocol, text: str) -> None:
    """The ATTACH has been answered: go on with what waited for it."""
    if client.busy is None:
        return
    waiting = client.busy.pop(text, None)
    while waiting and client.open:
        waiting.popleft()()
        if client.busy and text in client.busy:  # another ATTACH, which has to wait itself
            client.busy[text].extend(waiting)
            return
    if not client.busy:
        client.busy = None  # most connections attach once, and then sit still


def _leave(client: ClientProtocol, text: str) -> None:
    """End the attachment, if there is one."""
    accepting.revoke(client, text)
    attachment = client.attachments.pop(text, None)
    if attachment is not None:
        attachment.end()
        if client.behind and attachment in client.behind:  # else one that comes and goes would fill it
            client.behind.remove(attachment)


def _refuse_channel(client: ClientProtocol, text: str, error: PubSubError) -> None:
    _leave(client, text)
    client.send({"action": Action.ERROR, "channel": text, "error": error.info()})
    _finish(client, text)


def regrant(client: ClientProtocol) -> None:
    """Its credentials have changed: what it may do on the channels that it is attached to, and is told if that differs.

    Who may no longer read keeps its cursor, and goes on after it when it may again. Reading itself is not touched by
    what else is given or taken.
    """
    for text, attachment in list(client.attachments.items()):
        name, operations = _permitted(client, text)
        modes = granted_modes(attachment.requested, operations) & ~ABSENT_MODES
        had, taken = attachment.modes, attachment.modes & ~modes
        if not modes:
            _refuse_channel(client, text, denied(name.name, attachment.requested, "the new"))
        elif modes != had:
            attachment.modes = modes
            if taken & Flag.SUBSCRIBE and attachment.state is not State.STARTING:
                attachment.fall_silent()
            if client.busy is None or text not in client.busy:  # else the ATTACHED that is to come says so
                _tell_change(client, attachment, had)


def _tell_change(client: ClientProtocol, attachment: Attachment, had: int) -> None:
    """It has other modes than it had."""

    def why() -> PubSubError | None:  # asked again when it can be told: more may have changed by then
        taken = had & ~attachment.modes
        reason = f"the new credentials do not permit {mode_names(taken)} on {attachment.name.name!r}"
        return AuthError(reason, code=40160) if taken else None

    if attachment.modes & ~had & Flag.SUBSCRIBE:
        attachment.happens(Event.RESTARTS)  # what was being read for it comes too early
        _begin(client, attachment.name.full)
        _resume(client, attachment, attachment.cursor, why)
    else:
        # Libraries tell an application of an ATTACHED without RESUMED only: it has to know that nothing comes any more.
        resumed = not had & ~attachment.modes & Flag.SUBSCRIBE
        _say_attached(client, attachment, attachment.position, resumed=resumed, error=why())
