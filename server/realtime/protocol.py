"""One client's state machine on an open connection, sans-IO: protocol messages in, protocol messages out.

    transport --payload--> receive --MESSAGE, plain--> accepting ----> hub (outcome comes to a Receipt)
                              |                            |
                              +-----anything else----> the table of actions
                                                           |
            Session: identity, outgoing messages <---------+---------> Attaching: its channels
            shared by ``accepting`` and ``Attaching``                  tells accepting to recheck permissions

Operations that have to wait (waking a channel, reading the journal) go to the server, which answers by a method call.
Every method is one indivisible step. Source for the replies: Ably's realtime protocol, versions 1.2 to 6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.allowance import Allowance
from engine.auth.tokens import Identity
from engine.errors import BadRequest, LimitExceeded, PubSubError
from ext.net.plane import NO_ROOM
from ext.wire.publish import parse_publish
from server.realtime import accepting, fields, wire
from server.realtime.actions import Action
from server.realtime.attach import Attaching
from server.realtime.session import Session


class ClientProtocol:
    """Dispatches a transport's events to the parts of one client's state machine."""

    __slots__ = ("attaching", "session")

    def __init__(self, session: Session, attaching: Attaching) -> None:
        self.session = session
        self.attaching = attaching

    def receive(self, payload: bytes, wire_format: int) -> None:
        """Handle one WebSocket message: text is JSON, binary is msgpack."""
        if not self.session.open:
            return
        publish = parse_publish(payload, wire_format)
        if publish is not None:
            accepting.accept(self.session, publish)
            return
        try:
            message = wire.decode(payload, wire_format)
            handle = _ACTIONS.get(fields.integer(message, "action", limit=1 << 32))
            if handle is not None:  # unknown actions belong to newer protocol versions
                handle(self, message, wire_format)
        except PubSubError as error:
            self.session.fail(error)

    def violated(self, close_code: int) -> None:
        """The peer sent an invalid frame, or a fragment with no memory left for it: nothing more can be read."""
        if close_code == NO_ROOM:
            told = "the server has reached its limit for partly received messages; try again"
            self.session.disconnect(LimitExceeded(told, code=50004, status=503))
        elif close_code == 1009:
            error = LimitExceeded("the frame is larger than maxFrameSize", code=40009, status=400)
            self.session.fail(error, close_code)
        else:
            self.session.fail(BadRequest("the client violated the WebSocket protocol", code=80013), close_code)

    def go_by(self, identity: Identity) -> None:
        """Its credentials have changed, or their meaning has."""
        session = self.session
        session.identity = identity
        session.contexts = session.author = None
        accepting.renew(session)
        self.attaching.regrant()

    def renew(self, allowance: Allowance) -> None:
        """Its allowance may have changed; if a value that the client was told differs, tell it again."""
        session = self.session
        before, session.allowance = session.allowance, allowance
        session.transport.shape(allowance.shaper())
        accepting.renew(session)
        if allowance.max_message_size != before.max_message_size:
            session.connected()

    # actions about the connection itself

    def _on_heartbeat(self, message: dict[str, Any], wire_format: int) -> None:
        self.session.send({"action": Action.HEARTBEAT, "id": fields.optional_text(message, "id")})

    def _on_close(self, message: dict[str, Any], wire_format: int) -> None:
        self.session.close()

    def _on_disconnect(self, message: dict[str, Any], wire_format: int) -> None:
        self.session.disconnect(PubSubError("disconnected as requested", code=80003, status=400))

    def _on_auth(self, message: dict[str, Any], wire_format: int) -> None:
        session, auth = self.session, fields.mapping(message, "auth") or {}
        try:
            identity = session.services.reauthenticate(session, fields.text(auth, "accessToken"))
        except LimitExceeded as error:  # same answer as at connect: a retry may help
            session.disconnect(error)
            return
        self.go_by(identity)
        session.connected()


Handler = Callable[[ClientProtocol, dict[str, Any], int], None]


def _attaches(handle: Callable[[Attaching, dict[str, Any]], None]) -> Handler:
    return lambda client, message, wire_format: handle(client.attaching, message)


def _publishes(handle: Callable[[Session, dict[str, Any], int], None]) -> Handler:
    return lambda client, message, wire_format: handle(client.session, message, wire_format)


_ACTIONS: dict[int, Handler] = {
    Action.HEARTBEAT: ClientProtocol._on_heartbeat,
    Action.DISCONNECT: ClientProtocol._on_disconnect,
    Action.CLOSE: ClientProtocol._on_close,
    Action.AUTH: ClientProtocol._on_auth,
    Action.ATTACH: _attaches(Attaching.on_attach),
    Action.DETACH: _attaches(Attaching.on_detach),
    Action.SYNC: _attaches(Attaching.on_sync),
    Action.MESSAGE: _publishes(accepting.on_message),
    Action.PRESENCE: _publishes(accepting.on_presence),
    Action.ANNOTATION: _publishes(accepting.on_annotation),
    Action.OBJECT: _publishes(accepting.on_object),
}
