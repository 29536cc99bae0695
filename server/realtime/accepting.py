"""What one client publishes over its connection: accepted and staged, or refused. An AckQueue has the answers.

    accept       may it? is it within its bounds? -> hub.stage, with a receipt       (a plain one, from bytes)
    on_message   the same for one that is not plain
    _grant       once yes has been said to a channel, plain publishes to it take the short way (ext/net/ingest.pyx)
    revoke       when that may have changed: AUTH, ATTACH, DETACH

All of it is a part of the client's state machine (server/realtime/protocol.py): synchronous, sans-IO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine import absent, limits
from engine.auth.capability import Operation
from engine.auth.rates import WHOLE, Pace
from engine.auth.tokens import check_message_client_id
from engine.channel import Channel
from engine.errors import AuthError, BadRequest, LimitExceeded, PubSubError
from engine.message import check_count, check_named_connection, client_ids_of, ids_of, publish_from
from engine.names import ChannelName, parse_channel
from ext.log.rate import Rate
from ext.net.ingest import Ingest
from ext.wire.acks import AckQueue
from ext.wire.publish import Publish
from server.realtime import fields
from server.realtime.actions import Flag

if TYPE_CHECKING:
    from server.realtime.protocol import ClientProtocol


def on_message(client: ClientProtocol, message: dict[str, Any], wire_format: int) -> None:
    msg_serial = fields.integer(message, "msgSerial", limit=1 << 63)
    try:
        text = fields.text(message, "channel")
        _may_publish(client, text)  # who may not is told that, and not what else is wrong
        messages = message.get("messages")
        for client_id in client_ids_of(messages):
            check_message_client_id(client.identity, client_id)
        check_named_connection(ids_of(messages), client.connection.id)
        publish = publish_from(
            text,
            msg_serial,
            messages,
            wire_format,
            fields.mapping(message, "params"),
            max_messages=client.services.hub.settings.limits.messages_per_publish,
        )
    except PubSubError as error:
        _answers(client).expect(msg_serial, 0).refused(error)
        return
    accept(client, publish)


def on_presence(client: ClientProtocol, message: dict[str, Any], wire_format: int) -> None:
    _decline(client, message, Operation.PRESENCE, "presence", absent.PRESENCE)


def on_annotation(client: ClientProtocol, message: dict[str, Any], wire_format: int) -> None:
    _decline(client, message, Operation.ANNOTATION_PUBLISH, "annotation-publish", absent.ANNOTATIONS)


def on_object(client: ClientProtocol, message: dict[str, Any], wire_format: int) -> None:
    _decline(client, message, Operation.OBJECT_PUBLISH, "object-publish", absent.OBJECTS)


def _decline(client: ClientProtocol, message: dict[str, Any], operation: int, named: str, feature: str) -> None:
    """NACK what this server does not have; who may not even do it is told that."""
    refusal: PubSubError = absent.refusal(named, feature)
    receipt = _answers(client).expect(fields.integer(message, "msgSerial", limit=1 << 63), 0)
    try:
        name = parse_channel(fields.text(message, "channel"))
        if not client.identity.capability.permits(name.name, operation):
            refusal = AuthError(f"the credentials do not permit {named} on {name.name!r}", code=40160)
    except PubSubError as error:
        refusal = error
    receipt.refused(refusal)


def accept(client: ClientProtocol, publish: Publish) -> None:
    acks = _answers(client)
    receipt = acks.expect(publish.msg_serial, len(publish.messages))
    hub = client.services.hub
    if not acks.paused and (
        acks.bytes > limits.UNANSWERED_BYTES or hub.common.pending_bytes > hub.settings.limits.staged_bytes
    ):
        acks.paused = True  # until what it has sent is stored: its sends wait in the kernel meanwhile
        client.transport.pause()
    try:
        name, operations = _may_publish(client, publish.channel)
        if publish.client_ids is not None:
            for client_id in publish.client_ids:
                check_message_client_id(client.identity, client_id)
        check_named_connection(publish.ids, client.connection.id)
        bounds = hub.settings.limits
        check_count(publish.count, bounds.messages_per_publish)
        if publish.privileged and not operations & Operation.PRIVILEGED_HEADERS:
            raise AuthError("messages[].extras.privileged: the credentials do not permit it", code=40160)
        maximum = client.allowance.max_message_size
        if publish.size > maximum:
            raise LimitExceeded(
                f"messages: {publish.size} bytes are more than maxMessageSize, {maximum}", code=40009, status=400
            )
        if publish.params is not None and publish.params.get("_forceNack") in (True, "true"):
            raise BadRequest("params._forceNack: refused as asked", code=40099)
        now_ms = client.services.now_ms()
        own = _own_rate(client, name.name, now_ms)
        app_id = client.identity.app_id
        if not hub.is_open(app_id, name.name):  # who is refused opens none
            client.allowance.check_unopened(hub.quota_of(app_id, name.name), publish.size, now_ms, connected=True)
        channel = hub.open(app_id, name.name)
        client.allowance.admit(channel, publish.count, publish.size, now_ms)
    except PubSubError as error:
        receipt.refused(error)
        return
    if own is None:
        _grant(client, publish.channel, channel)
    else:  # the short way does not know of it
        own.take(now_ms, 0, publish.count * WHOLE)
    connection = client.connection
    base_id = f"{connection.id}:{publish.msg_serial}"
    hub.stage(
        channel,
        publish,
        base_id,
        connection.id,
        client.identity.client_id,
        now_ms,
        receipt,
        inherited=connection.inherited,
    )


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
        bounds = client.services.hub.settings.limits
        client.ingest = Ingest(
            client.services.hub.common,
            _answers(client),
            client.connection.id,
            client.identity.client_id,
            most_bytes=client.allowance.max_message_size,
            most_messages=bounds.messages_per_publish,
            most_unanswered=limits.UNANSWERED_BYTES,
            most_pending=bounds.staged_bytes,
            inherited=client.connection.inherited,
        )
        bound(client, client.ingest)
        _answers(client).transport = client.transport
        client.transport.deliver_to(client.ingest)
    client.ingest.grant(text, channel)


def bound(client: ClientProtocol, ingest: Ingest) -> None:
    allowance, bounds = client.allowance, client.services.hub.settings.limits
    ingest.bound(
        allowance.incoming,
        allowance.key.incoming,
        allowance.app.incoming,
        most_bytes=allowance.max_message_size,
    )
    ingest.limit(most_messages=bounds.messages_per_publish, most_pending=bounds.staged_bytes)


def revoke(client: ClientProtocol, text: str) -> None:
    """What may be done on the channel is to be looked at anew."""
    if client.ingest is not None:
        client.ingest.revoke(text)


def _may_publish(client: ClientProtocol, text: str) -> tuple[ChannelName, int]:
    """The channel's name, and what this identity may do there. Raises: PubSubError, if it is not publishing."""
    name, operations = _context(client, text)
    if not operations & Operation.PUBLISH:
        raise AuthError(f"the credentials do not permit publish on {name.name!r}", code=40160)
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
        client.acks.owner = client
    return client.acks
