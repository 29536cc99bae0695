"""Checks a publish, from the client's input to an entry ready for staging: all rules that need no log, in the
protocol's order.

    Messages        as received: plain (read in one pass, ext/wire/publish.pyx) or unchecked values
    check_publish   clientId (40012), ids of connections (40031), then errors in a message (40034, 40031, 40032,
                    40013), privileged extras (40160), size (40009), _forceNack (40099)

The permission to publish to the channel is checked before. Rules that need the log come after: engine/hub.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.allowance import check_size
from engine.auth.capability import Operation, not_permitted
from engine.errors import BadRequest, PubSubError
from engine.message import check_client_ids, check_ids, client_ids_of, ids_of, publish_from
from ext.log.author import Author
from ext.log.terms import Terms
from ext.wire.publish import Publish


class Messages:
    """The messages of a publish, as received; converted for the record once, for any number of channels."""

    __slots__ = ("_client_ids", "_ids", "_made", "_max_messages", "params", "plain", "values", "wire")

    def __init__(
        self,
        wire: int,
        values: object,
        params: Mapping[str, Any] | None,
        max_messages: int,
        plain: Publish | None = None,
    ) -> None:
        """
        Args:
            wire: the format whose rules for binary payloads apply.
            params: of the publish; interpreted here.
            plain: the result of ``values``, if already known: then they are not parsed.
        """
        self.wire = wire
        self.values = values
        self.params = params
        self.plain = plain
        self._max_messages = max_messages
        self._made: Publish | PubSubError | None = plain
        self._client_ids: set[str] | None = None
        self._ids: Sequence[str] | None = None

    def client_ids(self) -> set[str]:
        """The clientIds in the messages. Raises: PubSubError 40012, for an invalid one."""
        if self._client_ids is None:
            named = self.plain.client_ids if self.plain is not None else client_ids_of(self.values)
            self._client_ids = {client_id for client_id in named or () if client_id is not None}
        return self._client_ids

    def ids(self) -> Sequence[str]:
        """The ids in the messages, if they are valid."""
        if self._ids is None:
            self._ids = (self.plain.ids or ()) if self.plain is not None else ids_of(self.values)
        return self._ids

    def make(self) -> None:
        """Compute the result of ``publish`` now, or raise."""
        if self._made is None:
            try:
                self._made = publish_from("", 0, self.values, self.wire, max_messages=self._max_messages)
            except PubSubError as error:
                self._made = error

    def publish(self) -> Publish:
        """Raises: PubSubError, as ``publish_from``."""
        self.make()
        assert self._made is not None
        if isinstance(self._made, PubSubError):
            raise self._made
        return self._made


def check_publish(messages: Messages, author: Author, terms: Terms, channel: str, operations: int) -> Publish:
    """The entry to stage in the name of ``author``, who has these operations on the channel. Raises: PubSubError."""
    check_client_ids(author, messages.client_ids())
    check_ids(author, messages.ids())
    publish = messages.publish()
    if publish.privileged and not operations & Operation.PRIVILEGED_HEADERS:
        raise not_permitted("privileged-headers", repr(channel), field="messages[].extras.privileged")
    check_size(terms, publish.count, publish.size)
    if messages.params is not None and messages.params.get("_forceNack") in (True, "true"):
        raise BadRequest("_forceNack: refused as requested", code=40099)
    return publish
