"""What one app, key, connection or channel may take of the server: as it is written down.

    [limits.app] [limits.key] [limits.connection] [limits.channel]     for each of its kind
    [[apps]] limits, their keys' limits, [namespaces.x] limits         for this one, instead, entry by entry

Every entry that is given nowhere is unlimited, and ``"unlimited"`` says so where the general one is not wanted. What of
it has been used is ``engine.allowance``'s."""

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
    """As they are written down for a channel; 0: not at all. What they mean is told at ``Quota``."""

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
    """Those of one key, and of each of its connections."""

    connection: Annotated[ConnectionLimits, Meta(description="a table of limits")] = ConnectionLimits()

    @property
    def quotas(self) -> tuple[Quota, Quota]:
        return self.quota, self.connection.quota


SCOPES: Mapping[str, type[ChannelLimits]] = MappingProxyType(
    {"app": AppLimits, "key": KeyLimits, "connection": ConnectionLimits, "channel": ChannelLimits}
)


@dataclass(frozen=True, slots=True)
class Quota:
    """0: unlimited, as far as this quota goes. Who exceeds one is told so, and when to try again; nobody is cut off."""

    messages_in: int = 0
    """Messages published in a second. The publisher: 42911 (connection), 42913 (channel), 42910 (key, app)."""
    bytes_in: int = 0
    """Bytes of them, counted as for max_message_size, but 64 for each message at least. The same."""
    messages_out: int = 0
    """Messages delivered in a second. The subscriber: it gets them later, from where it was."""
    bytes_out: int = 0
    """Bytes sent to subscribers. The same."""
    max_message_size: int = 0
    """Bytes of one publish; never more than the server's. The publisher: 40009."""
    connections: int = 0
    """Open at once. The newcomer: 40150, to come back later."""
    channels_per_connection: int = 0
    """Attachments of each connection; never more than the server's. The client: 90010 for that channel."""
    channels: int = 0
    """In memory at once; in place of a share of the server's. Whoever wants one more: 42910, to come back later."""
    dedup_ids: int = 0
    """Message ids remembered; in place of a share of the server's. The publisher: 42910, until older ones expire."""

    def over(self, general: Quota) -> Quota:
        """This one where it says something, else the general one. ``-1``, unlimited for certain, becomes 0."""
        return Quota(*(max(0, getattr(self, name) or getattr(general, name)) for name in _NAMES))

    @property
    def given(self) -> dict[str, int | str]:
        """As it is written down: without what is not said."""
        values = {name: getattr(self, name) for name in _NAMES}
        return {name: UNLIMITED if value < 0 else value for name, value in values.items() if value}


NOTHING_SAID = Quota()
_NAMES = tuple(each.name for each in fields(Quota))
