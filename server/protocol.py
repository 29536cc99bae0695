"""One client's state machine on an open connection, sans-IO: protocol messages in, protocol messages out.

    transport --payload--> receive --MESSAGE, plain--> publish ------> hub (outcome comes to a Receipt)
                              |
                              +-----anything else----> table of actions

    out: transport.send, in order; acknowledgements when the server calls ``answer``

What has to wait (a channel that wakes, the journal) is asked of ``Services`` and comes back by a method call. Every
method is one indivisible step. Source for what is answered to what: Ably's realtime protocol, versions 1.2 to 6."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from engine import limits
from engine.allowance import Allowance
from engine.auth.capability import Operation
from engine.auth.tokens import Identity, check_message_client_id
from engine.channel import Channel
from engine.connection import Connection
from engine.errors import AuthError, BadRequest, Discontinuity, LimitExceeded, PubSubError
from engine.hub import Hub
from engine.message import check_count, publish_from
from engine.names import ChannelName, parse_channel
from ext.acks import AckQueue
from ext.ingest import Ingest
from ext.publish import Publish, parse_publish
from ext.serial import connection_origin, parse_serial, serial_text
from server import fields, wire
from server.actions import Action, Flag
from server.attachment import (
    Attachment,
    Rewind,
    Transport,
    channel_params,
    granted_modes,
    parse_rewind,
    requested_modes,
    shapers,
    unsupported_presence,
)


class Services(Protocol):
    """What a client's protocol asks of the server around it."""

    hub: Hub
    touched: list[AckQueue]
    """Those that have answers to give: to be sent before the next flush, by their owners' ``answer`` if in doubt."""

    def now_ms(self) -> int: ...
    def locate(
        self, client: ClientProtocol, attachment: Attachment, cursor: int, found: Callable[[bool], None]
    ) -> None:
        """Tell whether everything after ``cursor`` is still held, by the journal."""

    def rewound(
        self, client: ClientProtocol, attachment: Attachment, rewind: Rewind, found: Callable[[int, bool], None]
    ) -> None:
        """Tell the cursor from which a rewind begins, and whether less is held than was asked for."""

    def catch_up(self, client: ClientProtocol, attachment: Attachment) -> None:
        """Read on for it from ring and journal until it can go live."""

    def reauthenticate(self, client: ClientProtocol, token: str) -> Identity:
        """Check a token that came over the connection. Raises: AuthError."""

    def ended(self, client: ClientProtocol, *, closed: bool) -> None:
        """The client has said goodbye (closed), or lost its transport."""

    def connection_details(self, client: ClientProtocol) -> dict[str, Any]: ...
    def connection_key(self, client: ClientProtocol) -> str: ...


class ClientProtocol:
    """A connection with its attachments. Made when the handshake has succeeded; ``transport`` is set right after."""

    __slots__ = (
        "_attachments",
        "_busy",
        "_contexts",
        "_key",
        "acks",
        "allowance",
        "behind",
        "catching_up",
        "connection",
        "drained",
        "echo",
        "identity",
        "ingest",
        "open",
        "origin",
        "services",
        "transport",
        "wire",
    )

    transport: Transport

    def __init__(
        self,
        services: Services,
        connection: Connection,
        identity: Identity,
        key: str,
        wire_format: int,
        echo: bool,
        *,
        allowance: Allowance,
    ) -> None:
        self.services = services
        self.connection = connection
        self.identity = identity
        self.allowance = allowance
        self._key: str | None = key  # until it has been told with CONNECTED: it is long, and can be sealed anew
        self.wire = wire_format
        self.echo = echo
        self.origin = connection_origin(connection.id)
        self.open = True
        self.acks: AckQueue | None = None  # from its first publish on: most only listen
        self.ingest: Ingest | None = None  # from its first publish on
        self.behind: deque[Attachment] | None = None  # those that catch up, next first; the server's task works on it
        self.catching_up = False
        self.drained: Callable[[], None] | None = None
        self._attachments: dict[str, Attachment] = {}
        self._busy: dict[str, deque[Callable[[], None]]] | None = None  # channels whose ATTACH is not answered yet
        self._contexts: dict[str, tuple[ChannelName, int]] | None = None  # names that it published to unattached

    # in

    def receive(self, payload: bytes, wire_format: int) -> None:
        """One WebSocket message: text is JSON, binary is msgpack."""
        if not self.open:
            return
        publish = parse_publish(payload, wire_format)
        if publish is not None:
            self._publish(publish)
            return
        try:
            message = wire.decode(payload, wire_format)
            handle = _ACTIONS.get(fields.integer(message, "action", limit=1 << 32))
            if handle is not None:  # actions that nobody has heard of are for newer servers
                handle(self, message, wire_format)
        except PubSubError as error:
            self.fail(error)

    def violated(self, close_code: int) -> None:
        """The peer sent what is no WebSocket frame of ours; it can't be read any further."""
        if close_code == 1009:
            self.fail(LimitExceeded("the frame is larger than maxFrameSize", code=40009, status=400), close_code)
        else:
            self.fail(BadRequest("the peer broke the WebSocket protocol", code=80013), close_code)

    def gone(self) -> None:
        """The transport was lost: the connection may be resumed for a while."""
        if self.open:
            self._end()
            self.services.ended(self, closed=False)

    # out

    def send(self, message: dict[str, Any]) -> None:
        self.transport.send(wire.encode(message, self.wire))

    def connected(self, error: PubSubError | None = None) -> None:
        """Say CONNECTED: first of all on a new transport, and again when the credentials have changed."""
        key, self._key = self._key or self.services.connection_key(self), None
        message: dict[str, Any] = {
            "action": Action.CONNECTED,
            "connectionId": self.connection.id,
            "connectionKey": key,
            "connectionDetails": self.services.connection_details(self) | {"connectionKey": key},
        }
        if error is not None:
            message["error"] = error.info()
        self.send(message)

    def answer(self) -> None:
        """Send the acknowledgements whose turn has come."""
        acks = self.acks
        if acks is None:
            return
        for answer in acks.take():
            if isinstance(answer, bytes):
                self.transport.send(answer)
            else:
                number, error = answer
                self.send({"action": Action.NACK, "msgSerial": number, "count": 1, "error": error.info()})
        if acks.paused and acks.bytes <= limits.UNANSWERED_BYTES // 2:
            acks.paused = False
            self.transport.resume()

    def fail(self, error: PubSubError, close_code: int = 1000) -> None:
        """End the connection with an error from which no retry helps."""
        self._say_goodbye({"action": Action.ERROR, "error": error.info()}, close_code, closed=True)

    def disconnect(self, error: PubSubError) -> None:
        """Drop the transport; the client may resume at once."""
        self._say_goodbye({"action": Action.DISCONNECTED, "error": error.info()}, 1000, closed=False)

    def supersede(self) -> None:
        """A newer transport has resumed this connection: this one ends, and the connection goes on there."""
        if self.open:
            self._end()
            gone = PubSubError("a newer transport has taken over this connection", code=80016, status=400)
            self.send({"action": Action.DISCONNECTED, "error": gone.info()})
            self.transport.close(1000)

    def _say_goodbye(self, message: dict[str, Any], close_code: int, *, closed: bool) -> None:
        if self.open:
            self.answer()
            self._end()
            self.send(message)
            self.transport.close(close_code)
            self.services.ended(self, closed=closed)

    def _end(self) -> None:
        self.open = False
        for attachment in self._attachments.values():
            attachment.end()
        self._attachments.clear()
        self._busy = None
        self.behind = None
        if self.acks is not None:
            self.acks.owner = self.acks.transport = None
        self.ingest = None
        if self.drained is not None:
            drained, self.drained = self.drained, None
            drained()

    # publishing

    def _answers(self) -> AckQueue:
        if self.acks is None:
            self.acks = AckQueue(self.wire, self.services.touched)
            self.acks.owner = self
        return self.acks

    def _publish(self, publish: Publish) -> None:
        acks = self._answers()
        receipt = acks.expect(publish.msg_serial, len(publish.messages))
        hub = self.services.hub
        if not acks.paused and (
            acks.bytes > limits.UNANSWERED_BYTES or hub.sequencer.pending_bytes > hub.settings.limits.staged_bytes
        ):
            acks.paused = True  # until what it has sent is stored: its sends wait in the kernel meanwhile
            self.transport.pause()
        try:
            name, operations = self._may_publish(publish.channel)
            if publish.client_ids is not None:
                for client_id in publish.client_ids:
                    check_message_client_id(self.identity, client_id)
            if publish.privileged and not operations & Operation.PRIVILEGED_HEADERS:
                raise AuthError("messages[].extras.privileged: the credentials do not permit it", code=40160)
            bounds = hub.settings.limits
            check_count(publish.count, bounds.messages_per_publish)
            maximum = self.allowance.max_message_size
            if publish.size > maximum:
                raise LimitExceeded(
                    f"messages: {publish.size} bytes are more than maxMessageSize, {maximum}", code=40009, status=400
                )
            if publish.params is not None and publish.params.get("_forceNack") in (True, "true"):
                raise BadRequest("params._forceNack: refused as asked", code=40099)
            now_ms = self.services.now_ms()
            channel = hub.open(self.identity.app_id, name.name, now_ms)
            self.allowance.admit(channel, publish.count, publish.size, now_ms)
        except PubSubError as error:
            receipt.refused(error)
            return
        self._grant(publish.channel, channel)
        connection = self.connection
        base_id = f"{connection.id}:{publish.msg_serial}"
        hub.stage(channel, publish, base_id, connection.id, self.identity.client_id, now_ms, receipt)

    def _grant(self, text: str, channel: Channel) -> None:
        """What is published to this channel from now on need not come here, if it is plain."""
        if self.ingest is None:
            bounds = self.services.hub.settings.limits
            self.ingest = Ingest(
                self.services.hub.sequencer,
                self._answers(),
                self.connection.id,
                self.identity.client_id,
                most_bytes=self.allowance.max_message_size,
                most_messages=bounds.messages_per_publish,
                most_unanswered=limits.UNANSWERED_BYTES,
                most_pending=bounds.staged_bytes,
            )
            self._bound(self.ingest)
            self._answers().transport = self.transport
            self.transport.deliver_to(self.ingest)
        self.ingest.grant(text, channel)

    def _bound(self, ingest: Ingest) -> None:
        allowance = self.allowance
        ingest.bound(
            allowance.incoming,
            allowance.key.incoming,
            allowance.app.incoming,
            most_bytes=allowance.max_message_size,
        )

    def _revoke(self, text: str) -> None:
        """What may be done on the channel is to be looked at anew."""
        if self.ingest is not None:
            self.ingest.revoke(text)

    def _may_publish(self, text: str) -> tuple[ChannelName, int]:
        """The channel's name, and what this identity may do there. Raises: PubSubError, if it is not publishing."""
        name, operations = self._context(text)
        if not operations & Operation.PUBLISH:
            raise AuthError(f"the credentials do not permit publish on {name.name!r}", code=40160)
        attachment = self._attachments.get(text)
        if attachment is not None and not attachment.modes & Flag.PUBLISH:
            raise AuthError("the channel is attached without the publish mode", code=40165)
        return name, operations

    def _context(self, text: str) -> tuple[ChannelName, int]:
        """The channel's name, and what this identity may do there; remembered, as each publish may ask for it."""
        contexts = self._contexts
        if contexts is None:
            contexts = self._contexts = {}
        found = contexts.get(text)
        if found is None:
            name = parse_channel(text)
            if len(contexts) >= limits.REMEMBERED_NAMES:
                contexts.clear()
            found = contexts[text] = (name, self.identity.capability.operations(name.name))
        return found

    def _permitted(self, text: str) -> tuple[ChannelName, int]:
        """The same for one who attaches, which is rarely asked again."""
        name = parse_channel(text)
        return name, self.identity.capability.operations(name.name)

    def _on_message(self, message: dict[str, Any], wire_format: int) -> None:
        msg_serial = fields.integer(message, "msgSerial", limit=1 << 63)
        try:
            text = fields.text(message, "channel")
            self._may_publish(text)  # who may not is told that, and not what else is wrong
            publish = publish_from(
                text,
                msg_serial,
                message.get("messages"),
                wire_format,
                fields.mapping(message, "params"),
                max_messages=self.services.hub.settings.limits.messages_per_publish,
            )
        except PubSubError as error:
            self._answers().expect(msg_serial, 0).refused(error)
            return
        self._publish(publish)

    def _on_presence(self, message: dict[str, Any], wire_format: int) -> None:
        self._answers().expect(fields.integer(message, "msgSerial", limit=1 << 63), 0).refused(unsupported_presence())

    def _on_unsupported(self, message: dict[str, Any], wire_format: int) -> None:
        refusal = BadRequest("this kind of message is not available on this server", code=40000)
        self._answers().expect(fields.integer(message, "msgSerial", limit=1 << 63), 0).refused(refusal)

    # attaching

    def _in_turn(self, text: str, step: Callable[[], None]) -> None:
        """Do it now, or after the ATTACH of this channel that is still being worked on."""
        waiting = self._busy.get(text) if self._busy is not None else None
        if waiting is None:
            step()
        elif len(waiting) < limits.WAITING_STEPS:
            waiting.append(step)
        else:
            self._refuse_channel(text, LimitExceeded("too many requests wait for this channel", code=42910, status=429))

    def _begin(self, text: str) -> None:
        if self._busy is None:
            self._busy = {}
        self._busy[text] = deque()

    def _finish(self, text: str) -> None:
        """The ATTACH has been answered: go on with what waited for it."""
        if self._busy is None:
            return
        waiting = self._busy.pop(text, None)
        while waiting and self.open:
            waiting.popleft()()
            if self._busy and text in self._busy:  # another ATTACH, which has to wait itself
                self._busy[text].extend(waiting)
                return
        if not self._busy:
            self._busy = None  # most connections attach once, and then sit still

    def _leave(self, text: str) -> None:
        """End the attachment, if there is one."""
        self._revoke(text)
        attachment = self._attachments.pop(text, None)
        if attachment is not None:
            attachment.end()
            if self.behind and attachment in self.behind:  # else one that comes and goes would fill it
                self.behind.remove(attachment)

    def _refuse_channel(self, text: str, error: PubSubError) -> None:
        self._leave(text)
        self.send({"action": Action.ERROR, "channel": text, "error": error.info()})
        self._finish(text)

    def _on_attach(self, message: dict[str, Any], wire_format: int) -> None:
        text = fields.text(message, "channel")
        self._in_turn(text, lambda: self._attach(text, message))

    def _attach(self, text: str, message: dict[str, Any]) -> None:
        try:
            name, operations = self._permitted(text)
            flags = fields.integer(message, "flags", limit=1 << 32, default=0)
            params = channel_params(name, message.get("params"))
            rewind = parse_rewind(params)
            requested = requested_modes(flags, params)
            granted = granted_modes(requested, operations)
            if not granted:
                raise AuthError(f"the credentials do not permit attaching to {name.name!r} so", code=40160)
            earlier = self._attachments.get(text)
            most = self.allowance.channels
            if earlier is None and len(self._attachments) >= most:
                raise LimitExceeded(
                    f"the connection is attached to {most} channels, the most allowed", code=90010, status=400
                )
            serial = fields.optional_text(message, "channelSerial")
            fresh = earlier is None and serial is None and not flags & Flag.ATTACH_RESUME
            channel = self.services.hub.open(self.identity.app_id, name.name, self.services.now_ms())
        except PubSubError as error:
            self._refuse_channel(text, error)
            return
        name = channel.shared_name(name)
        text = name.full
        attachment = Attachment(name, channel)
        if earlier is not None:  # it ends, so that what is being read for it is not handed out beside the new one's
            self._leave(text)
            if earlier.modes & Flag.SUBSCRIBE:
                attachment.cursor = earlier.cursor
        self._revoke(text)
        self._attachments[text] = attachment
        attachment.requested = requested
        attachment.modes = granted
        attachment.params = params
        attachment.echo = self.echo and params.get("echo") != "false"
        self._begin(text)
        again = serial is None and bool(flags & Flag.ATTACH_RESUME)
        self.services.hub.when_awake(channel, lambda: self._place(attachment, serial, rewind if fresh else None, again))

    def _place(self, attachment: Attachment, serial: str | None, rewind: Rewind | None, again: bool) -> None:
        """The channel is awake: find where the attachment begins to read."""
        if not (self.open and attachment.active):
            return
        channel = attachment.channel
        if channel.failure is not None:
            self._unattachable(attachment, channel.failure)
            return
        if serial is not None:
            cursor = self._cursor_of(channel, serial)
            if cursor is None:
                self._lost(attachment)
            elif channel.in_ring(cursor):
                self._attached(attachment, cursor, resumed=True)
            else:
                position = cursor

                def located(held: bool) -> None:
                    if self.open and attachment.active:
                        if held:
                            self._attached(attachment, position, resumed=True)
                        else:
                            self._lost(attachment)

                self.services.locate(self, attachment, cursor, located)
        elif rewind is not None:

            def rewound(cursor: int, cut: bool) -> None:
                if self.open and attachment.active:
                    error = None
                    if cut:
                        error = PubSubError("less is held than the rewind asked for", code=90004, status=404)
                    self._attached(attachment, cursor, resumed=False, error=error)

            self.services.rewound(self, attachment, rewind, rewound)
        elif attachment.cursor:  # attached already: it reads on from where it was
            self._attached(attachment, attachment.cursor, resumed=again)
        else:
            self._attached(attachment, channel.head, resumed=False)

    def _unattachable(self, attachment: Attachment, error: PubSubError) -> None:
        """Its log cannot be read just now; the client tries again by itself."""
        text = attachment.name.full
        self._leave(text)
        self.send({"action": Action.DETACHED, "channel": text, "error": error.info()})
        self._finish(text)

    def _cursor_of(self, channel: Channel, text: str) -> int | None:
        """The cursor, if it is one of this very log and not ahead of it."""
        try:
            serial, series = parse_serial(text)
        except ValueError:
            return None
        newest = max(self.services.hub.sequencer.clock.last, self.services.now_ms() << 16)
        return serial if series == channel.policy.series and serial <= newest else None

    def _lost(self, attachment: Attachment) -> None:
        """Continuity is lost, and the client is told so; it goes on from now."""
        error = PubSubError("messages after the channelSerial are no longer held", code=90003, status=404)
        self._attached(attachment, attachment.channel.head, resumed=False, error=error)

    def _attached(
        self, attachment: Attachment, cursor: int, *, resumed: bool, error: PubSubError | None = None
    ) -> None:
        """Say ATTACHED, then deliver from the cursor on; one indivisible step."""
        channel, text = attachment.channel, attachment.name.full
        if attachment.modes & Flag.SUBSCRIBE and not channel.has_stream_for(self.wire, text):
            most = limits.STREAMS_PER_CHANNEL
            error = LimitExceeded(f"the channel is followed under {most} names and formats, the most it may be")
            self._refuse_channel(text, error)
            return
        flags = int(attachment.modes)
        if resumed:
            flags |= Flag.RESUMED
        if cursor < channel.ring.head and attachment.modes & Flag.SUBSCRIBE:
            flags |= Flag.HAS_BACKLOG
        message: dict[str, Any] = {
            "action": Action.ATTACHED,
            "channel": text,
            "channelSerial": serial_text(cursor, channel.policy.series),
            "flags": flags,
        }
        if attachment.params:
            message["params"] = attachment.params
        if error is not None:
            message["error"] = error.info()
        self.send(message)
        self.deliver(attachment, cursor)
        self._finish(text)

    def deliver(self, attachment: Attachment, cursor: int) -> bool:
        """Go live if everything after the cursor is at hand, else have it read on behind the scenes."""
        attachment.cursor = cursor
        if not attachment.modes & Flag.SUBSCRIBE:
            return True
        skip = 0 if attachment.echo else self.origin
        budget = limits.SHAPED_BYTES if shapers(self.transport, attachment.channel) else limits.REPLAY_BYTES
        if attachment.read_from(cursor, self.transport, self.wire, skip, budget):
            return True
        if self.behind is None:
            self.behind = deque()
        if attachment not in self.behind:
            self.behind.append(attachment)
        self.services.catch_up(self, attachment)
        return False

    def fell_behind(self, reader: object) -> None:
        """A reader was so slow that the stream no longer holds what comes next for it."""
        for attachment in self._attachments.values():
            if attachment.reader is reader:
                attachment.stop_reading()
                self.deliver(attachment, attachment.cursor)
                return

    def discontinued(self, attachment: Attachment, lag: Discontinuity) -> None:
        """What comes next for it is held nowhere any more: tell, and go on from now."""
        if self.open and attachment.active:
            error = PubSubError(str(lag), code=90003, status=404)
            self._attached(attachment, attachment.channel.head, resumed=False, error=error)

    def _on_detach(self, message: dict[str, Any], wire_format: int) -> None:
        text = fields.text(message, "channel")

        def detach() -> None:
            self._leave(text)
            self.send({"action": Action.DETACHED, "channel": text})

        attachment = self._attachments.get(text)
        if attachment is not None and self._busy is not None and text in self._busy:
            self._in_turn(text, detach)
        else:
            detach()

    def _on_sync(self, message: dict[str, Any], wire_format: int) -> None:
        text = fields.text(message, "channel")
        if text in self._attachments:  # nobody is present: a complete, empty set
            sync = f"s{self.services.now_ms()}:"
            self.send({"action": Action.SYNC, "channel": text, "channelSerial": sync, "presence": []})

    # the connection itself

    def _on_heartbeat(self, message: dict[str, Any], wire_format: int) -> None:
        self.send({"action": Action.HEARTBEAT, "id": fields.optional_text(message, "id")})

    def _on_close(self, message: dict[str, Any], wire_format: int) -> None:
        self._say_goodbye({"action": Action.CLOSED}, 1000, closed=True)

    def _on_disconnect(self, message: dict[str, Any], wire_format: int) -> None:
        self.disconnect(PubSubError("disconnected as asked", code=80003, status=400))

    def _on_auth(self, message: dict[str, Any], wire_format: int) -> None:
        auth = fields.mapping(message, "auth") or {}
        identity = self.services.reauthenticate(self, fields.text(auth, "accessToken"))
        self.identity = identity
        self._contexts = None
        if self.ingest is not None:
            self.ingest.identify(identity.client_id)
            self._bound(self.ingest)
        for text, attachment in list(self._attachments.items()):
            _, operations = self._permitted(text)
            modes = granted_modes(attachment.requested, operations)
            if not modes:
                error = AuthError(f"the new credentials do not permit {attachment.name.name!r}", code=40160)
                self._refuse_channel(text, error)
            elif modes != attachment.modes:
                had = attachment.modes & Flag.SUBSCRIBE
                attachment.modes = modes
                if had and not modes & Flag.SUBSCRIBE:
                    attachment.stop_reading()
                elif modes & Flag.SUBSCRIBE and not had and not (self._busy and text in self._busy):
                    self.deliver(attachment, attachment.channel.head)
        self.connected()

    def ask_for_credentials(self) -> None:
        """The token ends soon: hint that a new one is welcome."""
        if self.open:
            self.send({"action": Action.AUTH})


_ACTIONS: dict[int, Callable[[ClientProtocol, dict[str, Any], int], None]] = {
    Action.HEARTBEAT: ClientProtocol._on_heartbeat,
    Action.DISCONNECT: ClientProtocol._on_disconnect,
    Action.CLOSE: ClientProtocol._on_close,
    Action.ATTACH: ClientProtocol._on_attach,
    Action.DETACH: ClientProtocol._on_detach,
    Action.PRESENCE: ClientProtocol._on_presence,
    Action.MESSAGE: ClientProtocol._on_message,
    Action.SYNC: ClientProtocol._on_sync,
    Action.AUTH: ClientProtocol._on_auth,
    Action.ANNOTATION: ClientProtocol._on_unsupported,
    Action.OBJECT: ClientProtocol._on_unsupported,
}
