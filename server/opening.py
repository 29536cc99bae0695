"""A WebSocket has been accepted: who is it, which connection does it continue, and what is it told first.

    query --authenticate--> Identity --resume? recover?--> connection --> CONNECTED
             |                             |
             ERROR, close                  a fresh connection, and the reason in CONNECTED

Refusals are protocol messages, too: a refusal at HTTP level would make libraries report something general and retry."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from engine.auth.tokens import Identity
from engine.errors import BadRequest, PubSubError
from server.handshake import Upgrade
from server.node import Node
from server.protocol import ClientProtocol

LOGGER = logging.getLogger("unbroken.opening")

NEWEST_VERSION = 6
MOST_PARAMETERS = 100  # of a query; SDKs send about ten


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the client asks for in the query of its request."""

    params: Mapping[str, str]
    wire: int
    heartbeats: bool
    echo: bool


def read_query(target: str) -> Greeting:
    """Never raises: the format must be known before anything can be refused in it."""
    query = urlsplit(target).query
    try:
        params = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MOST_PARAMETERS))
    except ValueError:
        params = {}
    return Greeting(
        params,
        1 if params.get("format") == "msgpack" else 0,
        params.get("heartbeats") != "false",
        params.get("echo") != "false",
    )


def check_version(params: Mapping[str, str], header: str | None) -> None:
    """Any version of the protocol up to ours, and newer ones as ours. Raises: BadRequest 40017."""
    text = params.get("v") or header
    if text is None:
        return
    try:
        version = float(text)
    except ValueError:
        version = -1.0
    if not 0.8 <= version < 1e6:
        raise BadRequest(f"v: {text[:20]!r} is no version of the protocol; the newest is {NEWEST_VERSION}", code=40017)


def open_connection(
    node: Node, upgrade: Upgrade, greeting: Greeting, attach_transport: Callable[[ClientProtocol | None], None]
) -> None:
    """Make the client's protocol and say CONNECTED, or say why not and close.

    ``attach_transport`` is called with the client (or None, when it is refused), and gives it its transport.
    """
    params = greeting.params
    try:
        check_version(params, upgrade.headers.get("x-ably-version"))
        if params.get("format") not in (None, "json", "msgpack"):
            raise BadRequest(f"format: must be json or msgpack, got {params['format'][:20]!r}", code=40000)
        node.admit()
        now_ms = node.now_ms()
        identity = node.authenticate(params, upgrade.headers.get("authorization"), params.get("clientId"))
        client, problem = _continue_or_begin(node, identity, greeting, now_ms)
    except PubSubError as error:
        node.refuse(greeting, error, attach_transport)
        return
    attach_transport(client)
    client.connected(problem)
    node.joined(client)


def _continue_or_begin(
    node: Node, identity: Identity, greeting: Greeting, now_ms: int
) -> tuple[ClientProtocol, PubSubError | None]:
    handle = greeting.params.get("resume") or greeting.params.get("recover")
    problem: PubSubError | None = None
    if handle:
        try:
            resumed = node.connections.resume(handle, identity, now_ms)
        except PubSubError as error:
            problem = error
        else:
            if isinstance(resumed.superseded, ClientProtocol):
                resumed.superseded.supersede()
            return node.make_client(resumed.connection, identity, resumed.key, greeting), None
    opened = node.connections.open(identity, now_ms)
    return node.make_client(opened.connection, identity, opened.key, greeting), problem
