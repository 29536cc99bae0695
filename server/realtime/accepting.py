"""What one client publishes over its connection: accepted and staged, or refused. An AckQueue has the answers.

    accept       may it? what is wrong with it? (engine/publish_rules.py) -> hub.publish, with a receipt
    on_message   the same for one that is not plain
    _grant       once yes has been said to a channel, plain publishes to it take the short way (ext/net/ingest.pyx)
    revoke       when that may have changed: AUTH, ATTACH, DETACH

All of it is a part of the client's state machine (server/realtime/protocol.py): synchronous, sans-IO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine import absent, limits
from engine.auth.capability import Operation, not_permitted
from engine.auth.rates import WHOLE, Pace
from engine.channel import Channel
from engine.errors import AuthError, PubSubError
from engine.names import ChannelName, parse_channel
from engine.publish_rules import Messages, check_publish
from ext.log.author import Author
from ext.log.rate import Rate
from ext.net.ingest import Ingest
from ext.wire.acks import AckQueue, Receipt
from ext.wire.publish import Publish
from server.realtime import fields
from server.realtime.actions import Flag

if TYPE_CHECKING:
    from server.realtime.session import Session as ClientProtocol


def on_message(client: ClientProtocol, message: dict[str, Any], wire_format: int) -> None:
    msg_serial = fields.integer(message, "msgSerial", limit=1 << 63)
    try:
        text = fields.text(message, "channel")
        name, operations = _may_publish(client, text)  # before anything else that may be wrong
        values, params = message.get("messages"), fields.mapping(message, "params")
        messages = Messages(wire_format, values, params, client.allowance.terms.max_messages)
        publish = check_publish(messages, author_of(client), client.allowance.terms, name.name, operations)
    except PubSubError as error:
        _receipt(client, msg_serial, 0).refused(error)
        return
    _stage(client, text, name, msg_serial, publish)


def on_presence(client: ClientProtocol, message: dict[str, Any], wire_format: int) -> None:
    _decline(client, message, Operation.PRESENCE, "presence", absent.PRESENCE)


def on_annotation(client: ClientProtocol, message: dict[str, Any], wire_format: int) -> None:
    _decline(client, message, Operation.ANNOTATION_PUBLISH, "annotation-publish", absent.ANNOTATIONS)


def on_object(client: ClientProtocol, message: dict[str, Any], wire_format: int) -> None:
    _decline(client, message, Operation.OBJECT_PUBLISH, "object-publish", absent.OBJECTS)


def _decline(client: ClientProtocol, message: dict[str, Any], operation: int, named: str, feature: str) -> None:
    """NACK what this server does not have; who may not even do it is told that."""
    refusal: PubSubError = absent.refusal(named, feature)
    receipt = _receipt(client, fields.integer(message, "msgSerial", limit=1 << 63), 0)
    try:
        name = parse_channel(fields.text(message, "channel"))
        if not client.identity.capability.permits(name.name, operation):
            refusal = not_permitted(named, repr(name.name))
    except PubSubError as error:
        refusal = error
    receipt.refused(refusal)


def accept(client: ClientProtocol, publish: Publish) -> None:
    text, msg_serial, terms = publish.channel, publish.msg_serial, client.allowance.terms
    try:
        name, operations = _may_publish(client, text)
        messages = Messages(client.wire, None, None, terms.max_messages, publish)
        check_publish(messages, author_of(client), terms, name.name, operations)
    except PubSubError as error:
        _receipt(client, msg_serial, 0).refused(error)
        return
    _stage(client, text, name, msg_serial, publish)


def _stage(client: ClientProtocol, text: str, name: ChannelName, msg_serial: int, publish: Publish) -> None:
    """Have it decided on, and the answer in the queue. Nothing is wrong with it by itself."""
    receipt = _receipt(client, msg_serial, len(publish.messages))
    connection, app_id, now_ms = client.connection, client.identity.app_id, client.services.now_ms()
    base_id = f"{connection.id}:{msg_serial}"
    try:
        own = _own_rate(client, name.name, now_ms)
        channel = client.services.hub.publish(
            app_id, name.name, publish, base_id, author_of(client), client.allowance.terms, receipt
        )
    except PubSubError as error:
        receipt.refused(error)
        return
    if own is None:
        _grant(client, text, channel)
    else:  # the short way does not know of it
        own.take(now_ms, 0, publish.count * WHOLE)


def _receipt(client: ClientProtocol, msg_serial: int, size: int) -> Receipt:
    """Of a publish that has come. With too many, what the connection sends next waits in the kernel for a while."""
    acks = _answers(client)
    receipt = acks.expect(msg_serial, size)
    if not acks.paused and (acks.full or client.services.hub.common.congested):
        acks.paused = True
        client.transport.pause()
    return receipt


def _own_rate(client: ClientProtocol, channel: str, now_ms: int) -> Rate | None:
    """The one that its token has for this channel, if any, with room for a publish. Raises: LimitExceeded 42911."""
    rates = client.identity.rates
    thousandths = rates.of(channel) if rates is not None else None
    if thousandths is None:
        return None
    if client.pace is None:
        client.pace = Pace()
    return client.pace.rate(channel, thousandths, now_ms)


def _grant(client: ClientProtocol, text: str, channel: Channel) -> None:
    """What is published to this channel from now on need not come here, if it is plain."""
    if client.ingest is None:
        acks = _answers(client)
        client.ingest = Ingest(client.services.hub.common, acks, author_of(client), client.allowance.terms)
        acks.transport = client.transport
        client.transport.deliver_to(client.ingest)
    client.ingest.grant(text, channel)


def author_of(client: ClientProtocol) -> Author:
    """In whose name it publishes, with its present credentials."""
    if client.author is None:
        connection = client.connection
        client.author = client.identity.author(connection.id, inherited=connection.inherited)
    return client.author


def renew(client: ClientProtocol) -> None:
    """Its credentials or its allowance have changed."""
    if client.ingest is not None:
        client.ingest.bound(author_of(client), client.allowance.terms)


def revoke(client: ClientProtocol, text: str) -> None:
    """What may be done on the channel is to be looked at anew."""
    if client.ingest is not None:
        client.ingest.revoke(text)


def _may_publish(client: ClientProtocol, text: str) -> tuple[ChannelName, int]:
    """The channel's name, and what this identity may do there. Raises: PubSubError, if it is not publishing."""
    name, operations = _context(client, text)
    if not operations & Operation.PUBLISH:
        raise not_permitted("publish", repr(name.name))
    attachment = client.attachments.get(text)
    if attachment is not None and not attachment.modes & Flag.PUBLISH:
        raise AuthError("the channel is attached without the publish mode", code=40165)
    return name, operations


def _context(client: ClientProtocol, text: str) -> tuple[ChannelName, int]:
    """The channel's name, and what this identity may do there; remembered, as each publish may ask for it."""
    contexts = client.contexts
    if contexts is None:
        contexts = client.contexts = {}
    found = contexts.get(text)
    if found is None:
        name = parse_channel(text)
        if len(contexts) >= limits.REMEMBERED_NAMES:
            contexts.clear()
        found = contexts[text] = (name, client.identity.capability.operations(name.name))
    return found


def _answers(client: ClientProtocol) -> AckQueue:
    if client.acks is None:
        client.acks = AckQueue(client.wire, client.services.touched)
        client.acks.max_bytes = limits.UNANSWERED_BYTES
        client.acks.owner = client
    return client.acks
