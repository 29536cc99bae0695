"""Recognizes clients of other protocols by their path or their sub-protocol.

They are refused in any case. But "no route" would make the user of a Pusher library look for a mistake in the paths,
whereas the name of the protocol says what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

_BY_FIRST = {  # segments of a path
    "app": "Pusher",
    "socket.io": "Socket.IO",
    "engine.io": "Engine.IO",
    "sockjs": "SockJS",
    "sockjs-node": "SockJS",
    "graphql": "GraphQL",
    "subscriptions": "GraphQL",
    "cable": "Action Cable",
    "signalr": "SignalR",
    "faye": "Bayeux",
    "bayeux": "Bayeux",
    "cometd": "Bayeux",
    "mqtt": "MQTT",
}
_BY_TWO = {
    "connection/websocket": "Centrifugo",
    "connection/sockjs": "Centrifugo",
    "connection/http_stream": "Centrifugo",
    "connection/sse": "Centrifugo",
    "connection/uni_websocket": "Centrifugo",
    "connection/uni_sse": "Centrifugo",
    "connection/uni_http_stream": "Centrifugo",
    "socket/websocket": "Phoenix Channels",
    "socket/longpoll": "Phoenix Channels",
    "realtime/v1": "Phoenix Channels",
    ".well-known/mercure": "Mercure",
}
_PUSHER_HTTP = {"events", "batch_events", "channels", "users"}  # /apps/<id>/...
_SOCKJS_LAST = {"xhr", "xhr_send", "xhr_streaming", "eventsource", "htmlfile", "jsonp", "websocket"}
_BY_SUBPROTOCOL = {
    "graphql-transport-ws": "GraphQL",
    "graphql-ws": "GraphQL",
    "mqtt": "MQTT",
    "mqttv3.1": "MQTT",
    "actioncable-v1-json": "Action Cable",
    "v10.stomp": "STOMP",
    "v11.stomp": "STOMP",
    "v12.stomp": "STOMP",
    "wamp.2.json": "WAMP",
    "wamp.2.msgpack": "WAMP",
    "centrifuge-json": "Centrifugo",
    "centrifuge-protobuf": "Centrifugo",
}


def protocol_of(segments: Sequence[str]) -> str | None:
    """The protocol whose clients use this path (its segments, decoded); None: no other known protocol."""
    named = _BY_FIRST.get("".join(segments[:1])) or _BY_TWO.get("/".join(segments[:2]))
    if named is None and len(segments) > 2 and segments[0] == "apps" and segments[2] in _PUSHER_HTTP:
        named = "Pusher"
    if named is None and len(segments) > 3 and segments[-1] in _SOCKJS_LAST and segments[-3].isdigit():
        named = "SockJS"  # /<whatever>/<server>/<session>/<transport>
    return named


def protocol_named(subprotocols: str) -> str | None:
    """The same by Sec-WebSocket-Protocol. This server's protocol has no name there."""
    offered = [name.strip().lower() for name in subprotocols.split(",")]
    return next((_BY_SUBPROTOCOL[name] for name in offered if name in _BY_SUBPROTOCOL), None)


def of_another(protocol: str) -> str:
    """The reason to refuse a request of such a client."""
    return f"belongs to the {protocol} protocol, which this server does not support; use an Ably SDK"
