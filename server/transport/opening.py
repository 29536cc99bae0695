"""Opens an accepted WebSocket: the client's identity, the connection it continues, and the first message to it.

    query --authenticate--> Identity --resume? recover?--> connection --> CONNECTED
             |                             |
           ERROR, close                    a fresh connection, and the reason in CONNECTED

Refusals are protocol messages, too: after a refusal at HTTP level, libraries report a generic error and retry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote_plus

from engine.errors import BadRequest, LimitExceeded, PubSubError
from server.http.keyguard import KeyGuard
from server.http.refusals import Refusals
from server.node.clients import Clients
from server.node.lifetimes import Lifetimes
from server.realtime import wire
from server.realtime.actions import Action
from server.realtime.attach import Attaching, Reading
from server.realtime.libraries import discards_while_attaching
from server.realtime.protocol import ClientProtocol
from server.realtime.session import Session
from server.realtime.transport import Transport
from server.transport.handshake import Upgrade

NEWEST_VERSION = 6
MAX_PARAMETERS = 100  # of a query; SDKs send about ten
KNOWN_VALUES = (  # by parameter, and the error code for any other value
    ("format", ("json", "msgpack"), 40000),
    ("echo", ("true", "false"), 40003),
    ("heartbeats", ("true", "false"), 40003),
)
SHOWN = 20  # characters of a value in an error


@dataclass(frozen=True, slots=True)
class Greeting:
    """The client's request, from its query."""

    params: Mapping[str, str]
    wire: int
    heartbeats: bool
    echo: bool


class Met(NamedTuple):
    """An accepted client, and the content of CONNECTED: the key, and the reason of a failed resume."""

    client: ClientProtocol
    key: str
    problem: PubSubError | None


def read_query(target: str) -> Greeting:
    """Never raises: a refusal needs the format first."""
    params = query_params(target)
    return Greeting(
        params,
        wire.MSGPACK if params.get("format") == "msgpack" else wire.JSON,
        params.get("heartbeats") != "false",
        params.get("echo") != "false",
    )


def query_params(target: str) -> dict[str, str]:
    """As ``parse_qsl`` reads them (the last of a name counts), in a third of its time. Empty if there are too many,
    which is refused once the format is known."""
    params: dict[str, str] = {}
    parts = target.partition("#")[0].partition("?")[2].split("&")
    if len(parts) <= MAX_PARAMETERS:
        for part in parts:
            if part:
                name, _, value = part.partition("=")
                params[_unquoted(name)] = _unquoted(value)
    return params


def _unquoted(text: str) -> str:
    return unquote_plus(text) if "%" in text or "+" in text else text


def check_version(text: str | None) -> None:
    """Accepts any version of the protocol up to ours, and newer ones as ours. Raises: BadRequest 40017."""
    if text is None:
        return
    whole, dot, part = text.partition(".")
    if not (whole.isascii() and whole.isdigit() and (not dot or (part.isascii() and part.isdigit())) and len(text) < 8):
        told = f"v: {text[:SHOWN]!r} is not a version of the protocol; the newest is {NEWEST_VERSION}"
        raise BadRequest(told, code=40017)


def check_params(params: Mapping[str, str]) -> None:
    """Known parameters must have known values: a guess would be wrong for some clients. Raises: BadRequest 40003,
    40000."""
    for name, known, code in KNOWN_VALUES:
        value = params.get(name)
        if value is not None and value not in known:
            raise BadRequest(f"{name}: must be {' or '.join(known)}, got {value[:SHOWN]!r}", code=code)
    stays = params.get("remainPresentFor")
    if stays is not None and not (stays.isascii() and stays.isdigit()):
        raise BadRequest(f"remainPresentFor: must be a number of milliseconds, got {stays[:SHOWN]!r}", code=40003)


class Opening:
    """Accepts or refuses clients."""

    def __init__(
        self, clients: Clients, reading: Reading, keyguard: KeyGuard, refusals: Refusals, lifetimes: Lifetimes
    ) -> None:
        self._clients = clients
        self._reading = reading
        self._keyguard = keyguard
        self._refusals = refusals
        self._lifetimes = lifetimes

    def meet(self, upgrade: Upgrade, greeting: Greeting, peer: Callable[[], str] | None) -> Met | PubSubError:
        """The accepted client, or the error that refuses it.

        ``peer`` returns the remote address of a plain connection; None: the connection has TLS.
        """
        params, authorization = greeting.params, upgrade.headers.get("authorization")
        try:
            if upgrade.target.count("&") >= MAX_PARAMETERS:
                raise BadRequest(f"the query has more than {MAX_PARAMETERS} parameters", code=40000)
            check_version(params.get("v") or upgrade.headers.get("x-ably-version"))
            check_params(params)
            self._clients.admit()
            self._keyguard.check(params, authorization, peer)
            identity = self._clients.authenticate(params, authorization, params.get("clientId"))
            key = params.get("resume") or params.get("recover")
            opened, allowance, problem = self._clients.take_up(identity, key)
        except PubSubError as error:
            self._refusals.note_error(params, authorization, error)
            return error.with_traceback(None)  # the traceback would keep this frame: a cycle per refusal
        session = Session(self._clients, opened.connection, identity, greeting.wire, allowance=allowance)
        discards = discards_while_attaching(params.get("agent") or upgrade.headers.get("ably-agent"))
        attaching = Attaching(session, self._reading, echo=greeting.echo, discards=discards)
        return Met(ClientProtocol(session, attaching), opened.key, problem)

    def lost(self, met: Met | PubSubError) -> None:
        """The transport was lost before any message was sent."""
        if isinstance(met, Met):
            self._clients.lost_before(met.client.session)

    def greet(self, met: Met | PubSubError, greeting: Greeting, transport: Transport) -> None:
        """Send the first message: CONNECTED, or a refusal; the latter when a new token would be valid."""
        if isinstance(met, Met):
            self._welcome(met, transport)
        elif not self._lifetimes.say(met, partial(refuse, met, greeting, transport)):
            transport.pause()

    def _welcome(self, met: Met, transport: Transport) -> None:
        """Assign the transport, and send CONNECTED."""
        session = met.client.session
        session.transport = transport
        shaper = session.allowance.shaper()
        if shaper is not None:
            transport.shape(shaper)
        session.connected(met.key, met.problem)
        self._clients.joined(met.client)


def refuse(error: PubSubError, greeting: Greeting, transport: Transport) -> None:
    """Send the error, and close. An error that a retry may fix is sent as DISCONNECTED."""
    action = Action.DISCONNECTED if error.status >= 500 or isinstance(error, LimitExceeded) else Action.ERROR
    transport.send(wire.encode({"action": action, "error": error.info()}, greeting.wire))
    transport.close(1000)
