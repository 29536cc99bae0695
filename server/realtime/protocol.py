"""One client's state machine on an open connection, sans-IO: protocol messages in, protocol messages out.

    transport --payload--> receive --MESSAGE, plain--> accepting ----> hub (outcome comes to a Receipt)
                              |
                              +-----anything else----> table of actions (attach, accepting, and a few here)

    out: transport.send, in order; acknowledgements when the server calls ``answer``

What has to wait (a channel that wakes, the journal) is asked of ``Services`` and comes back by a method call. Every
method is one indivisible step. Source for what is answered to what: Ably's realtime protocol, versions 1.2 to 6."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from engine import limits
from engine.allowance import Allowance
from engine.auth.rates import Pace
from engine.auth.tokens import Identity
from engine.connection import Connection
from engine.errors import BadRequest, Discontinuity, LimitExceeded, OutcomeUnknown, PubSubError
from engine.hub import Hub
from engine.names import ChannelName
from ext.log.author import Author
from ext.net.ingest import Ingest
from ext.net.plane import NO_ROOM
from ext.text.serial import connection_origin
from ext.wire.acks import AckQueue
from ext.wire.publish import parse_publish
from server.realtime import accepting, attach, fields, wire
from server.realtime.actions import Action
from server.realtime.attachment import Attachment, Transport
from server.realtime.params import Rewind


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
        self, client: ClientProtocol, attachment: Attachment, rewind: Rewind, found: Callable[[int, int, bool], None]
    ) -> None:
        """Tell the cursor from which a rewind begins, how many messages of the entry after it are left out, and whether
        less is held than was asked for."""

    def hurry(self, attachment: Attachment) -> None:
        """If that is still being found out: tell the head instead, at once."""

    def catch_up(self, client: ClientProtocol, attachment: Attachment) -> None:
        """Read on for it from ring and journal until it can go live."""

    def reauthenticate(self, client: ClientProtocol, token: str) -> Identity:
        """Check a token that came over the connection. Raises: AuthError; LimitExceeded, if its key has no room."""

    def ended(self, client: ClientProtocol, *, closed: bool) -> None:
        """The client has said goodbye (closed), or lost its transport."""

    def connection_details(self, client: ClientProtocol) -> dict[str, Any]: ...
    def connection_key(self, client: ClientProtocol) -> str: ...


class ClientProtocol:
    """A connection with its attachments. Made when the handshake has succeeded; ``transport`` is set right after."""

    __slots__ = (
        "_key",
        "acks",
        "allowance",
        "attachments",
        "author",
        "behind",
        "busy",
        "catching_up",
        "connection",
        "contexts",
        "discards",
        "drained",
        "echo",
        "identity",
        "ingest",
        "open",
        "origin",
        "pace",
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
        self.discards = True  # what is on its way when it attaches anew; a library may be known not to
        self.origin = connection_origin(connection.id)
        self.open = True
        self.acks: AckQueue | None = None  # from its first publish on: most only listen
        self.author: Author | None = None  # from its first publish on; of its present credentials
        self.ingest: Ingest | None = None  # from its first publish on
        self.behind: deque[Attachment] | None = None  # those that catch up, next first; the server's task works on it
        self.catching_up = False
        self.drained: Callable[[], None] | None = None
        self.attachments: dict[str, Attachment] = {}
        self.busy: dict[str, deque[Callable[[], None]]] | None = None  # channels whose ATTACH is not answered yet
        self.pace: Pace | None = None  # from its first publish on, if its token says how often it may
        self.contexts: dict[str, tuple[ChannelName, int]] | None = None  # names that it published to unattached

    # in

    def receive(self, payload: bytes, wire_format: int) -> None:
        """One WebSocket message: text is JSON, binary is msgpack."""
        if not self.open:
            return
        publish = parse_publish(payload, wire_format)
        if publish is not None:
            accepting.accept(self, publish)
            return
        try:
            message = wire.decode(payload, wire_format)
            handle = _ACTIONS.get(fields.integer(message, "action", limit=1 << 32))
            if handle is not None:  # actions that nobody has heard of are for newer servers
                handle(self, message, wire_format)
        except PubSubError as error:
            self.fail(error)

    def violated(self, close_code: int) -> None:
        """The peer sent what is no frame of ours, or a part for which there is no room: nothing more can be read."""
        if close_code == NO_ROOM:
            told = "the server holds as many messages in part as it may; try again"
            self.disconnect(LimitExceeded(told, code=50004, status=503))
        elif close_code == 1009:
            self.fail(LimitExceeded("the frame is larger than maxFrameSize", code=40009, status=400), close_code)
        else:
            self.fail(BadRequest("the client violated the WebSocket protocol", code=80013), close_code)

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
                if isinstance(error, OutcomeUnknown):  # no answer is true: it comes back, and sends what has none again
                    self.disconnect(error)
                    return
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

    def cut_off(self) -> None:
        """Take nothing more of the client, and give it nothing more; the next that it hears is ``part``."""
        if self.open:
            self.answer()
        if self.open:
            self._end()
            self.transport.deliver_to(None)
            self.transport.pause()
            self.services.ended(self, closed=False)

    def part(self, error: PubSubError) -> None:
        """Drop the transport of one that has been cut off; the client may resume at once."""
        self.send({"action": Action.DISCONNECTED, "error": error.info()})
        self.transport.close(1000)

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
        for attachment in self.attachments.values():
            attachment.end()
        self.attachments.clear()
        self.busy = None
        self.behind = None
        if self.acks is not None:
            self.acks.owner = self.acks.transport = None
        self.ingest = None
        if self.drained is not None:
            drained, self.drained = self.drained, None
            drained()

    # reading on

    def deliver(self, attachment: Attachment, cursor: int) -> bool:
        """Go live if everything after the cursor is at hand, else have it read on behind the scenes."""
        return attach.deliver(self, attachment, cursor)

    def fell_behind(self, reader: object) -> None:
        """A reader was so slow that the stream no longer holds what comes next for it."""
        attach.fell_behind(self, reader)

    def discontinued(self, attachment: Attachment, lag: Discontinuity) -> None:
        """What comes next for it is held nowhere any more: tell, and go on from now."""
        attach.discontinued(self, attachment, lag)

    # the connection itself

    def _on_heartbeat(self, message: dict[str, Any], wire_format: int) -> None:
        self.send({"action": Action.HEARTBEAT, "id": fields.optional_text(message, "id")})

    def _on_close(self, message: dict[str, Any], wire_format: int) -> None:
        self._say_goodbye({"action": Action.CLOSED}, 1000, closed=True)

    def _on_disconnect(self, message: dict[str, Any], wire_format: int) -> None:
        self.disconnect(PubSubError("disconnected as asked", code=80003, status=400))

    def _on_auth(self, message: dict[str, Any], wire_format: int) -> None:
        auth = fields.mapping(message, "auth") or {}
        try:
            identity = self.services.reauthenticate(self, fields.text(auth, "accessToken"))
        except LimitExceeded as error:  # as who comes with such a token is told: a retry may help
            self.disconnect(error)
            return
        self.go_by(identity)
        self.connected()

    def go_by(self, identity: Identity) -> None:
        """Its credentials are others now, or mean something else."""
        self.identity = identity
        self.contexts = self.author = None
        accepting.renew(self)
        attach.regrant(self)

    def renew(self, allowance: Allowance) -> None:
        """What it may take of the server is another now, perhaps; its client is told of what it had been told."""
        before, self.allowance = self.allowance, allowance
        self.transport.shape(allowance.shaper())
        accepting.renew(self)
        if allowance.max_message_size != before.max_message_size:
            self.connected()

    def ask_for_credentials(self) -> None:
        """The token ends soon: hint that a new one is welcome."""
        if self.open:
            self.send({"action": Action.AUTH})


_ACTIONS: dict[int, Callable[[ClientProtocol, dict[str, Any], int], None]] = {
    Action.HEARTBEAT: ClientProtocol._on_heartbeat,
    Action.DISCONNECT: ClientProtocol._on_disconnect,
    Action.CLOSE: ClientProtocol._on_close,
    Action.ATTACH: attach.on_attach,
    Action.DETACH: attach.on_detach,
    Action.PRESENCE: accepting.on_presence,
    Action.MESSAGE: accepting.on_message,
    Action.SYNC: attach.on_sync,
    Action.AUTH: ClientProtocol._on_auth,
    Action.ANNOTATION: accepting.on_annotation,
    Action.OBJECT: accepting.on_object,
}
