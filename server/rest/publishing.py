"""Checks a publish over HTTP: from the body of a request to one Publish.

    application/json, x-msgpack, form    one message, or an array of them; a batch has several such arrays
    text/plain, octet-stream, or         the body is the payload; name, id, encoding and the like
      enveloped=false                      come in headers or in the query

Checks come in the order in which the protocol names errors: body (40001), channel (40010), capability (40160), then
those of engine/publish_rules.py."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from engine.auth.capability import Operation, not_permitted
from engine.auth.tokens import Identity
from engine.limits import INPUT_VALUES
from engine.message import check_client_ids
from engine.names import ChannelName, parse_channel
from engine.publish_rules import Messages, check_publish
from ext.log.author import Author
from ext.log.terms import Terms
from ext.text.values import is_json
from ext.wire.publish import Publish, parse_messages
from server.http.request import (
    FORM,
    MEDIA_TYPES,
    HttpRequest,
    bad_request,
    check_plain,
    decode_body,
    format_parameter,
    header_text,
    media_type,
)
from server.realtime.wire import JSON, MSGPACK

BASE_ID_BYTES = 9  # random; 12 characters, as the libraries make them
RAW_TYPES = {"text/plain", "application/octet-stream"}
FORM_FIELDS = {"name", "data", "encoding", "clientId", "id", "connectionKey"}
RAW_FIELDS = {  # of an unenveloped publish: field, header, query parameter
    "id": ("x-ably-messageid", "messageId"),
    "name": ("x-ably-name", "name"),
    "encoding": ("x-ably-encoding", "encoding"),
    "connectionKey": ("x-ably-connectionkey", "connectionKey"),
}


@dataclass(frozen=True, slots=True)
class RestPublish:
    """Ready to be stored."""

    channel: ChannelName
    publish: Publish
    base_id: str
    message_id: str  # as the answer names it
    author: Author
    terms: Terms

    @property
    def named(self) -> bool:
        """Its only message has its own id; otherwise the ids are ``<base_id>:<n>``."""
        return self.publish.count == 1 and self.publish.ids is not None

    @property
    def first_id(self) -> str:
        return self.message_id if self.named else f"{self.base_id}:0"


def check_request(
    request: HttpRequest,
    messages: Messages,
    channel_text: str,
    identity: Identity,
    terms: Terms,
    behalf: Callable[[str], tuple[str, str | None]],
) -> RestPublish:
    """Check everything about a publish except whether it can be stored.

    Args:
        behalf: connectionId and identity of the live connection with this key; PubSubError 40006, if there is none.
    Raises: PubSubError, with the codes above; 40165-class ones do not exist here, 40099 when asked for.
    """
    channel = parse_channel(channel_text)
    operations = identity.capability.operations(channel.name)
    if not operations & Operation.PUBLISH:
        raise not_permitted("publish", repr(channel.name))
    key = _connection_key(messages) if messages.plain is None else None
    author = identity.author() if key is None else _on_behalf(key, identity, behalf)
    publish = check_publish(messages, author, terms, channel.name, operations)
    base_id, message_id = _ids(publish)
    return RestPublish(channel, publish, base_id, message_id, author, terms)


def read_plain(request: HttpRequest, max_messages: int) -> Messages | None:
    """The messages of a request, if they are plain: read in one pass over their bytes.

    Raises: PubSubError 40001, if nobody here can read it.
    """
    check_plain(request)
    wire = MEDIA_TYPES.get(media_type(request.headers.get("content-type", "")))
    if wire is None or request.query.get("enveloped") == "false":
        return None
    plain = parse_messages(request.body, wire)
    return Messages(wire, None, request.query, max_messages, plain) if plain else None


def read_publish(request: HttpRequest, max_messages: int) -> Messages:
    """The messages of a request, plain or not. Raises: PubSubError, as ``read_messages``."""
    wire, values = read_messages(request)
    return Messages(wire, values, request.query, max_messages)


def published(channel: str, message_id: str, serials: list[str]) -> dict[str, object]:
    """What is told of a publish once it is stored: the body of a 201, or a result in that of a batch.

    The short way writes the same by itself (ext/net/published.pyx).

    Args:
        channel: as it was called.
    """
    return {"channel": channel, "messageId": message_id, "serials": serials}


def body_wire(request: HttpRequest) -> int:
    """The format of the body's payloads: forms have texts, like JSON."""
    kind = media_type(request.headers.get("content-type", ""))
    return MSGPACK if kind == "application/x-msgpack" or (not kind and format_parameter(request) == MSGPACK) else JSON


def read_messages(request: HttpRequest) -> tuple[int, list[object]]:
    """The format whose rules for binary payloads they follow, and the messages, unchecked inside.

    Raises: PubSubError 40001 (undecodable), 40000 (no message), 40009 (too many values).
    """
    kind = media_type(request.headers.get("content-type", ""))
    if kind in RAW_TYPES or request.query.get("enveloped") == "false":
        message = _unenveloped(request, kind)
        return (MSGPACK if isinstance(message["data"], bytes) else JSON), [message]
    body = decode_body(request)
    wire = body_wire(request)
    if kind == FORM and isinstance(body, dict):
        unknown = sorted(set(body) - FORM_FIELDS)
        if unknown:  # most likely JSON that was sent without its Content-Type
            raise bad_request(f"body: {unknown[0][:64]!r} is not a form field; is the body JSON?", code=40001)
    if isinstance(body, dict):
        return wire, [body]
    if not isinstance(body, list):
        raise bad_request(f"body: must be a message or an array of messages, got {type(body).__name__}")
    if not body:
        raise bad_request("body: must contain at least one message")
    return wire, body


def _unenveloped(request: HttpRequest, kind: str) -> dict[str, object]:
    message: dict[str, object] = {}
    for field, (header, parameter) in RAW_FIELDS.items():
        value = header_text(request, header)
        if value is None:
            value = request.query.get(parameter)
        if value is not None:
            message[field] = value
    if kind == "application/json":
        try:
            if not is_json(request.body, most=INPUT_VALUES):
                raise bad_request("body: not valid JSON", code=40001)
            message["data"] = request.body.decode()
        except OverflowError as error:
            raise bad_request(f"body: {error}", code=40009) from error
        message.setdefault("encoding", "json")
    elif kind == "text/plain":
        try:
            message["data"] = request.body.decode()
        except UnicodeDecodeError as error:
            raise bad_request(f"body: not UTF-8: {error.reason}", code=40001) from error
    else:
        message["data"] = request.body
    return message


def _connection_key(messages: Messages) -> object:
    """The key of the connection on whose behalf they are published, if any. Raises: PubSubError 40006."""
    values = messages.values if isinstance(messages.values, list) else []
    keys = [message.get("connectionKey") if isinstance(message, dict) else None for message in values]
    for index, other in enumerate(keys):
        if other != keys[0]:
            raise bad_request(f"messages[{index}].connectionKey: differs from the first message's", code=40006)
    return keys[0] if keys else None


def _on_behalf(key: object, identity: Identity, behalf: Callable[[str], tuple[str, str | None]]) -> Author:
    """In whose name it is published, if it is for the connection with this key."""
    if not isinstance(key, str):
        raise bad_request("messages[0].connectionKey: must be a string", code=40006)
    connection_id, client_id = behalf(key)
    if client_id is None:
        return identity.author(connection_id)
    check_client_ids(identity.author(), [client_id])  # a key of another client's connection does not change who asks
    return Author(connection_id, client_id)


def _ids(publish: Publish) -> tuple[str, str]:
    """The base of the message ids, and the messageId of the answer.

    Several messages have ids of one base, which publish_from has checked; a single one may have any.
    """
    if publish.ids is None:
        base = secrets.token_urlsafe(BASE_ID_BYTES)
        return base, base
    first = publish.ids[0]
    base = first.removesuffix(":0") or first
    return base, first if publish.count == 1 else base
