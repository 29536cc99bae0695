"""Publishes of one client: accepted and staged, or refused. An AckQueue holds the answers.

    accept       check permission and content (engine/publish_rules.py) -> hub.publish, with a receipt
    on_message   the same for a publish that is not plain
    _grant       after the first accepted publish to a channel, plain publishes take the fast path (ext/net/ingest.pyx)
    revoke       when permission may have changed: AUTH, ATTACH, DETACH

Part of the client's state machine (server/realtime/protocol.py): synchronous, sans-IO."""

from __future__ import annotations

from typing import Any

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
from server.realtime.session import Session


def on_message(session: Session, message: dict[str, Any], wire_format: int) -> None:
    msg_serial = fields.integer(message, "msgSerial", limit=1 << 63)
    try:
        text = fields.text(message, "channel")
        name, operations = _may_publish(session, text)  # before any other check
        values, params = message.get("messages"), fields.mapping(message, "params")
        messages = Messages(wire_format, values, params, session.allowance.terms.max_messages)
        publish = check_publish(messages, author_of(session), session.allowance.terms, name.name, operations)
    except PubSubError as error:
        _receipt(session, msg_serial, 0).refused(error)
        return
    _stage(session, text, name, msg_serial, publish)


def on_presence(session: Session, message: dict[str, Any], wire_format: int) -> None:
    _decline(session, message, Operation.PRESENCE, "presence", absent.PRESENCE)


def on_annotation(session: Session, message: dict[str, Any], wire_format: int) -> None:
    _decline(session, message, Operation.ANNOTATION_PUBLISH, "annotation-publish", absent.ANNOTATIONS)


def on_object(session: Session, message: dict[str, Any], wire_format: int) -> None:
    _decline(session, message, Operation.OBJECT_PUBLISH, "object-publish", absent.OBJECTS)


def _decline(session: Session, message: dict[str, Any], operation: int, named: str, feature: str) -> None:
    """NACK a feature that this server lacks; without permission for it, the NACK says that instead."""
    refusal: PubSubError = absent.refusal(named, feature)
    receipt = _receipt(session, fields.integer(message, "msgSerial", limit=1 << 63), 0)
    try:
        name = parse_channel(fields.text(message, "channel"))
        if not session.identity.capability.permits(name.name, operation):
            refusal = not_permitted(named, repr(name.name))
    except PubSubError as error:
        refusal = error
    receipt.refused(refusal)


def accept(session: Session, publish: Publish) -> None:
    text, msg_serial, terms = publish.channel, publish.msg_serial, session.allowance.terms
    try:
        name, operations = _may_publish(session, text)
        messages = Messages(session.wire, None, None, terms.max_messages, publish)
        check_publish(messages, author_of(session), terms, name.name, operations)
    except PubSubError as error:
        _receipt(session, msg_serial, 0).refused(error)
        return
    _stage(session, text, name, msg_serial, publish)


def _stage(session: Session, text: str, name: ChannelName, msg_serial: int, publish: Publish) -> None:
    """Pass a valid publish to the hub, and its answer to the queue."""
    receipt = _receipt(session, msg_serial, len(publish.messages))
    connection, app_id, now_ms = session.connection, session.identity.app_id, session.services.now_ms()
    base_id = f"{connection.id}:{msg_serial}"
    try:
        own = _own_rate(session, name.name, now_ms)
        channel = session.services.hub.publish(
            app_id, name.name, publish, base_id, author_of(session), session.allowance.terms, receipt
        )
    except PubSubError as error:
        receipt.refused(error)
        return
    if own is None:
        _grant(session, text, channel)
    else:  # the fast path does not apply this rate
        own.take(now_ms, 0, publish.count * WHOLE)


def _receipt(session: Session, msg_serial: int, size: int) -> Receipt:
    """The receipt of an incoming publish. With too many unanswered, reading from the connection pauses."""
    acks = _answers(session)
    receipt = acks.expect(msg_serial, size)
    if not acks.paused and (acks.full or session.services.hub.common.congested):
        acks.paused = True
        session.transport.pause()
    return receipt


def _own_rate(session: Session, channel: str, now_ms: int) -> Rate | None:
    """The token's own rate for this channel, if any, checked for one publish. Raises: LimitExceeded 42911."""
    rates = session.identity.rates
    thousandths = rates.of(channel) if rates is not None else None
    if thousandths is None:
        return None
    if session.pace is None:
        session.pace = Pace()
    return session.pace.rate(channel, thousandths, now_ms)


def _grant(session: Session, text: str, channel: Channel) -> None:
    """Let later plain publishes to this channel bypass this module."""
    if session.ingest is None:
        acks = _answers(session)
        session.ingest = Ingest(session.services.hub.common, acks, author_of(session), session.allowance.terms)
        acks.transport = session.transport
        session.transport.deliver_to(session.ingest)
    session.ingest.grant(text, channel)


def author_of(session: Session) -> Author:
    """The author of its publishes, by its current credentials."""
    if session.author is None:
        connection = session.connection
        session.author = session.identity.author(connection.id, inherited=connection.inherited)
    return session.author


def renew(session: Session) -> None:
    """Its credentials or its allowance have changed."""
    if session.ingest is not None:
        session.ingest.bound(author_of(session), session.allowance.terms)


def revoke(session: Session, text: str) -> None:
    """Check permission on this channel again at the next publish."""
    if session.ingest is not None:
        session.ingest.revoke(text)


def _may_publish(session: Session, text: str) -> tuple[ChannelName, int]:
    """The channel's name, and the operations this identity has there. Raises: PubSubError, if publishing is not one."""
    name, operations = _context(session, text)
    if not operations & Operation.PUBLISH:
        raise not_permitted("publish", repr(name.name))
    attachment = session.attachments.get(text)
    if attachment is not None and not attachment.modes & Flag.PUBLISH:
        raise AuthError("the channel is attached without the publish mode", code=40165)
    return name, operations


def _context(session: Session, text: str) -> tuple[ChannelName, int]:
    """The channel's name, and the operations this identity has there. Cached, because each publish may need it."""
    contexts = session.contexts
    if contexts is None:
        contexts = session.contexts = {}
    found = contexts.get(text)
    if found is None:
        name = parse_channel(text)
        if len(contexts) >= limits.REMEMBERED_NAMES:
            contexts.clear()
        found = contexts[text] = (name, session.identity.capability.operations(name.name))
    return found


def _answers(session: Session) -> AckQueue:
    if session.acks is None:
        session.acks = AckQueue(session.wire, session.services.touched)
        session.acks.max_bytes = limits.UNANSWERED_BYTES
        session.acks.owner = session
    return session.acks
