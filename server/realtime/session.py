"""One client's open connection: its identity, the messages to it, and its end.

    out    transport.send, in order; acknowledgements when the server calls ``answer``
    end    goodbye (ERROR, DISCONNECTED, CLOSED), or without a word; then it is not open, and everything of it is let go

What the parts of the client's state machine share is here, and none of them is known here: server/realtime/protocol.py
puts them together."""

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
    """What a session asks of the server around it."""

    hub: Hub
    touched: list[AckQueue]
    """Those that have answers to give: to be sent before the next flush, by their owners' ``answer`` if in doubt."""

    def now_ms(self) -> int: ...
    def reauthenticate(self, session: Session, token: str) -> Identity:
        """Check a token that came over the connection. Raises: AuthError; LimitExceeded, if its key has no room."""

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
        # Of publishing:
        self.acks: AckQueue | None = None  # from its first publish on: most only listen
        self.author: Author | None = None  # from its first publish on; of its present credentials
        self.ingest: Ingest | None = None  # from its first publish on
        self.pace: Pace | None = None  # from its first publish on, if its token says how often it may
        self.contexts: dict[str, tuple[ChannelName, int]] | None = None  # names that it published to unattached

    # out

    def send(self, message: dict[str, Any]) -> None:
        self.transport.send(wire.encode(message, self.wire))

    def connected(self, key: str | None = None, error: PubSubError | None = None) -> None:
        """Say CONNECTED: first of all on a new transport, and again when the credentials have changed.

        ``key``: that of the connection, if it is at hand. It is long, and can be sealed anew: so nobody keeps it.
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

    # the end

    def fail(self, error: PubSubError, close_code: int = 1000) -> None:
        """End the connection with an error from which no retry helps."""
        self._say_goodbye({"action": Action.ERROR, "error": error.info()}, close_code, closed=True)

    def disconnect(self, error: PubSubError) -> None:
        """Drop the transport; the client may resume at once."""
        self._say_goodbye({"action": Action.DISCONNECTED, "error": error.info()}, 1000, closed=False)

    def close(self) -> None:
        """The client has asked for it."""
        self._say_goodbye({"action": Action.CLOSED}, 1000, closed=True)

    def gone(self) -> None:
        """The transport was lost: the connection may be resumed for a while."""
        if self.open:
            self._end()
            self.services.ended(self, closed=False)

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
        if self.acks is not None:
            self.acks.owner = self.acks.transport = None
        self.ingest = None
