"""Quotas: what one app, key, connection or channel may use of the server, as configured.

    [limits.app] [limits.key] [limits.connection] [limits.channel]     for each of its kind
    [[apps]] limits, their keys' limits, [namespaces.x] limits         for this one, instead, entry by entry

An entry that is set nowhere is unlimited; ``"unlimited"`` overrides a general one. ``engine.allowance`` counts the
usage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from engine.checked import Table

UNLIMITED = "unlimited"
Limit = Annotated[int, Meta(ge=1, le=1 << 40)] | Literal["unlimited"]


class ChannelLimits(Table, frozen=True):
    """The limits of a channel, as configured; 0: not set. For their meaning see ``Quota``."""

    called: ClassVar[str] = "limit of a channel"
    messages_in: Limit = 0
    bytes_in: Limit = 0
    messages_out: Limit = 0
    bytes_out: Limit = 0
    max_message_size: Limit = 0

    @property
    def quota(self) -> Quota:
        values = {name: getattr(self, name) for name in _NAMES if name in self.__struct_fields__}
        return Quota(**{name: -1 if value == UNLIMITED else value for name, value in values.items()})


class ConnectionLimits(ChannelLimits, frozen=True):
    called: ClassVar[str] = "limit of a connection"
    channels_per_connection: Limit = 0


class KeyLimits(ConnectionLimits, frozen=True):
    called: ClassVar[str] = "limit of a key"
    connections: Limit = 0


class AppLimits(KeyLimits, frozen=True):
    called: ClassVar[str] = "limit of an app"
    channels: Limit = 0
    dedup_ids: Limit = 0


class OwnLimits(KeyLimits, frozen=True):
    """The limits of one key, and of each of its connections."""

    connection: Annotated[ConnectionLimits, Meta(description="a table of limits")] = ConnectionLimits()

    @property
    def quotas(self) -> tuple[Quota, Quota]:
        return self.quota, self.connection.quota


SCOPES: Mapping[str, type[ChannelLimits]] = MappingProxyType(
    {"app": AppLimits, "key": KeyLimits, "connection": ConnectionLimits, "channel": ChannelLimits}
)


@dataclass(frozen=True, slots=True)
class Quota:
    """0: not limited by this quota. A client that exceeds a quota learns when to retry; it is not disconnected."""

    messages_in: int = 0
    """Messages published in a second. Refused with 42911 (connection), 42913 (channel), 42910 (key, app)."""
    bytes_in: int = 0
    """Their bytes, counted as for max_message_size, but at least 64 for each message. Refused likewise."""
    messages_out: int = 0
    """Messages delivered in a second. The subscriber gets later ones with a delay, from its position."""
    bytes_out: int = 0
    """Bytes sent to subscribers in a second. Likewise."""
    max_message_size: int = 0
    """Bytes of one publish; never more than the server's limit. Refused with 40009."""
    connections: int = 0
    """Connections open at once. A newcomer is refused with 40150, and may come back later."""
    channels_per_connection: int = 0
    """Attachments of each connection; never more than the server's limit. Refused with 90010 for that channel."""
    channels: int = 0
    """Channels in memory at once; replaces a share of the server's. One more is refused with 42910, for a while."""
    dedup_ids: int = 0
    """Message ids remembered; replaces a share of the server's. Refused with 42910, until older ones expire."""

    def over(self, general: Quota) -> Quota:
        """This quota, with the general one's entries where it has none. ``-1``, explicitly unlimited, becomes 0."""
        return Quota(*(max(0, getattr(self, name) or getattr(general, name)) for name in _NAMES))

    @property
    def given(self) -> dict[str, int | str]:
        """As configured, without entries that are not set."""
        values = {name: getattr(self, name) for name in _NAMES}
        return {name: UNLIMITED if value < 0 else value for name, value in values.items() if value}


NOTHING_SAID = Quota()
_NAMES = tuple(each.name for each in fields(Quota))
