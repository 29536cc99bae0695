"""One client's open connection: its identity, its outgoing messages, and its end.

    out    transport.send, in order; acknowledgements when the server calls ``answer``
    end    goodbye (ERROR, DISCONNECTED, CLOSED), or silently; then it is no longer open, and all its state is released

Holds the state that the parts of the client's state machine share, and imports none of them:
server/realtime/protocol.py puts them together."""

from __future__ import annotations

from typing import Any, Protocol

from engine import limits
from engine.allowance import Allowance
from engine.auth.rates import Pace
from engine.auth.tokens import Identity
from engine.connection import Connection
from engine.errors import OutcomeUnknown, PubSubError
from engine.hub import Hub
from engine.names import ChannelName
from ext.log.author import Author
from ext.net.ingest import Ingest
from ext.wire.acks import AckQueue
from server.realtime import wire
from server.realtime.actions import Action
from server.realtime.attachment import Attachment
from server.realtime.transport import Transport


class Services(Protocol):
    """The services that a session needs from the surrounding server."""

    hub: Hub
    touched: list[AckQueue]
    """Queues with answers to send before the next flush; an owner's ``answer`` sends those in doubt."""

    def now_ms(self) -> int: ...
    def reauthenticate(self, session: Session, token: str) -> Identity:
        """Check a token sent over the connection. Raises: AuthError; LimitExceeded, if its key is at a limit."""

    def ended(self, session: Session, *, closed: bool) -> None:
        """The client has said goodbye (closed), or lost its transport."""

    def connection_details(self, session: Session) -> dict[str, Any]: ...
    def connection_key(self, session: Session) -> str: ...


class Session:
    """Made when the handshake has succeeded; ``transport`` is set right after."""

    __slots__ = (
        "acks",
        "allowance",
        "attachments",
        "author",
        "connection",
        "contexts",
        "identity",
        "ingest",
        "open",
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
        wire_format: int,
        *,
        allowance: Allowance,
    ) -> None:
        self.services = services
        self.connection = connection
        self.identity = identity
        self.allowance = allowance
        self.wire = wire_format
        self.open = True
        self.attachments: dict[str, Attachment] = {}
        # For publishing:
        self.acks: AckQueue | None = None  # from its first publish on: most clients only listen
        self.author: Author | None = None  # from its first publish on; by its current credentials
        self.ingest: Ingest | None = None  # from its first publish on
        self.pace: Pace | None = None  # from its first publish on, if its token limits the rate
        self.contexts: dict[str, tuple[ChannelName, int]] | None = None  # channel names checked for publishing

    # out

    def send(self, message: dict[str, Any]) -> None:
        self.transport.send(wire.encode(message, self.wire))

    def connected(self, key: str | None = None, error: PubSubError | None = None) -> None:
        """Send CONNECTED: the first message on a new transport, and again when the credentials have changed.

        ``key``: the connection's, if at hand. It is long and can be sealed again, so it is not stored.
        """
        key = key or self.services.connection_key(self)
        message: dict[str, Any] = {
            "action": Action.CONNECTED,
            "connectionId": self.connection.id,
            "connectionKey": key,
            "connectionDetails": self.services.connection_details(self) | {"connectionKey": key},
        }
        if error is not None:
            message["error"] = error.info()
        self.send(message)

    def ask_for_credentials(self) -> None:
        """The token ends soon: hint that a new one is welcome."""
        if self.open:
            self.send({"action": Action.AUTH})

    def answer(self) -> None:
        """Send the acknowledgements that are due."""
        acks = self.acks
        if acks is None:
            return
        for answer in acks.take():
            if isinstance(answer, bytes):
                self.transport.send(answer)
            else:
                number, error = answer
                if isinstance(error, OutcomeUnknown):  # neither ACK nor NACK is true: the client reconnects and resends
                    self.disconnect(error)
                    return
                self.send({"action": Action.NACK, "msgSerial": number, "count": 1, "error": error.info()})
        if acks.paused and acks.bytes <= limits.UNANSWERED_BYTES // 2:
            acks.paused = False
            self.transport.resume()

    # the end

    def fail(self, error: PubSubError, close_code: int = 1000) -> None:
        """End the connection with an error that no retry can fix."""
        self._say_goodbye({"action": Action.ERROR, "error": error.info()}, close_code, closed=True)

    def disconnect(self, error: PubSubError) -> None:
        """Drop the transport; the client may resume at once."""
        self._say_goodbye({"action": Action.DISCONNECTED, "error": error.info()}, 1000, closed=False)

    def close(self) -> None:
        """Close the connection at the client's request."""
        self._say_goodbye({"action": Action.CLOSED}, 1000, closed=True)

    def gone(self) -> None:
        """The transport was lost: the connection may be resumed for a while."""
        if self.open:
            self._end()
            self.services.ended(self, closed=False)

    def cut_off(self) -> None:
        """Stop receiving from the client and delivering to it; its next message comes from ``part``."""
        if self.open:
            self.answer()
        if self.open:
            self._end()
            self.transport.deliver_to(None)
            self.transport.pause()
            self.services.ended(self, closed=False)

    def part(self, error: PubSubError) -> None:
        """Drop the transport of a client that was cut off; it may resume at once."""
        self.send({"action": Action.DISCONNECTED, "error": error.info()})
        self.transport.close(1000)

    def supersede(self) -> None:
        """A newer transport has resumed this connection: end this session; the connection goes on there."""
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
        if self.acks is not None:
            self.acks.owner = self.acks.transport = None
        self.ingest = None
