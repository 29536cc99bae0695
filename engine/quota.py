"""What one app, key, connection or channel may take of the server: as it is written down.

    [limits.app] [limits.key] [limits.connection] [limits.channel]     for each of its kind
    [[apps]] limits, their keys' limits, [namespaces.x] limits         for this one, instead, entry by entry

Every entry that is given nowhere is unlimited, and ``"unlimited"`` says so where the general one is not wanted. What of
it has been used is ``engine.allowance``'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from engine.guess import did_you_mean

UNLIMITED = "unlimited"

RATES = ("messages_in", "bytes_in", "messages_out", "bytes_out")
SCOPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {  # which entries make sense where
        "app": (*RATES, "max_message_size", "connections", "channels_per_connection", "channels", "dedup_ids"),
        "key": (*RATES, "max_message_size", "connections", "channels_per_connection"),
        "connection": (*RATES, "max_message_size", "channels_per_connection"),
        "channel": (*RATES, "max_message_size"),
    }
)
LARGEST = 1 << 40


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


def parse_quota(given: Mapping[str, object], scope: str) -> Quota:
    """A quota as it is written down, in which -1 stands for ``"unlimited"``.

    Raises: ValueError, with the entry and the reason.
    """
    quota = NOTHING_SAID
    for name, value in given.items():
        if name not in SCOPES[scope]:
            raise ValueError(
                f"{name}: unknown limit of {_ARTICLE[scope]}; known are {', '.join(SCOPES[scope])}"
                f"{did_you_mean(name, SCOPES[scope])}"
            )
        if value == UNLIMITED:
            number = -1
        elif isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST:
            number = value
        else:
            raise ValueError(f'{name}: must be a whole number from 1 to {LARGEST:,}, or "{UNLIMITED}", got {value!r}')
        quota = replace(quota, **{name: number})
    return quota


def parse_key_quotas(given: Mapping[str, object]) -> tuple[Quota, Quota]:
    """A key's own, and under ``connection`` that of each of its connections. Raises: ValueError, as ``parse_quota``."""
    rest = dict(given)
    connection = rest.pop("connection", {})
    if not isinstance(connection, Mapping):
        raise ValueError(f"connection: must be a table of limits, got {connection!r}")
    quota = parse_quota(rest, "key")
    try:
        return quota, parse_quota(connection, "connection")
    except ValueError as error:
        raise ValueError(f"connection.{error}") from error


_ARTICLE = {"app": "an app", "key": "a key", "connection": "a connection", "channel": "a channel"}
