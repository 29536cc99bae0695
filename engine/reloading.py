"""Settings that are reloaded while the server runs: some take effect, others wait for a restart.

    before, wanted --merged--> settings in force: the wanted value where it can be switched, else the old one
                          \\--> Left: name of an unchanged setting, and the reason

A setting that is not in SWITCHED stays: a new setting waits for a restart until its switch is implemented."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from engine.settings import Namespace, Settings

SWITCHED = frozenset(
    {
        "keys",
        "namespaces",
        "quotas",
        "app_quotas",
        "tls_cert",
        "tls_key",
        "tls_ended_by_proxy",
        "log_level",
        "limits.max_message_size",
        "limits.max_frame_size",
        "limits.messages_per_publish",
        "limits.channels_per_connection",
        "limits.attachments",
        "limits.connections",
        "limits.channels",
        "limits.ring_bytes",
        "limits.bodies_bytes",
        "limits.staged_bytes",
        "limits.dedup_ids",
        "limits.request_body_bytes",
        "limits.request_head_bytes",
        "limits.handshake_seconds",
        "limits.drain_seconds",
    }
)
STAYS: Mapping[str, str] = {
    "host": "the port is already open",
    "port": "the port is already open",
    "data": "the journal is already open",
    "dev": "access is decided at start-up",
    "dev_anywhere": "access is decided at start-up",
    "log_format": "the log is already open",
    "durability": "channels in memory and in the journal depend on it",
    "limits.ring_bytes_per_channel": "existing rings keep their size",
    "limits.ring_entries_per_channel": "existing rings keep their size",
    "limits.window_seconds": "the journal's layout depends on it",
    "limits.connection_state_seconds": "clients have been told its value, and the journal's layout depends on it",
    "limits.max_idle_interval_ms": "clients have been told its value, and the journal's layout depends on it",
}
"""The reason, by setting."""


@dataclass(frozen=True, slots=True)
class Left:
    """A setting that differs in the configuration now, but stays unchanged."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}: stays as it was until a restart: {self.why}"


@dataclass(frozen=True, slots=True)
class Merged:
    """The settings that apply from now on, and the changed ones that do not."""

    settings: Settings
    changed: tuple[str, ...]  # names of those that took effect
    left: tuple[Left, ...]


def merged(before: Settings, wanted: Settings, *, in_use: Callable[[str], bool], keeps: bool) -> Merged:
    """
    Args:
        in_use: is any channel of this namespace in memory?
        keeps: is there a journal? Without one nothing can be stored.
    Raises: StartupFailed, if the combination is invalid.
    """
    changed: list[str] = []
    left: list[Left] = []

    def parts(prefix: str, old: Struct, new: Struct) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for each in old.__struct_fields__:
            name, value = prefix + each, getattr(new, each)
            if value == getattr(old, each) or name == "limits":
                continue
            if name not in SWITCHED:
                left.append(Left(as_written(name), STAYS.get(name, "it is read only at start-up")))
                continue
            found[each] = value
            changed.append(name)
        return found

    changes = parts("", before, wanted)
    changes["limits"] = replace(before.limits, **parts("limits.", before.limits, wanted.limits))
    if (before.tls_cert is None) != (wanted.tls_cert is None):
        for name in ("tls_cert", "tls_key"):
            del changes[name]
            changed.remove(name)
        left.append(Left("tls_cert, tls_key", "clients know whether the port speaks TLS"))
    if "namespaces" in changes:
        changes["namespaces"], stay = _namespaces(before, wanted, in_use, keeps)
        left += stay
        if changes["namespaces"] == before.namespaces:
            changed.remove("namespaces")
    return Merged(replace(before, **changes), tuple(changed), tuple(dict.fromkeys(left)))


def as_written(name: str) -> str:
    """A setting's name, as in the configuration."""
    return _WRITTEN.get(name, name)


_WRITTEN = {
    "host": "listen",
    "port": "listen",
    "keys": "apps.keys",
    "app_quotas": "apps.limits",
    "quotas": "limits of all apps, keys, connections or channels",
}


def _namespaces(
    before: Settings, wanted: Settings, in_use: Callable[[str], bool], keeps: bool
) -> tuple[dict[str, Namespace], list[Left]]:
    """The namespaces in force. The ring and the journal of an open channel depend on its durability."""
    found, left = dict(wanted.namespaces), []
    for name in sorted({*before.namespaces, *wanted.namespaces}):
        old, new = before.namespaces.get(name), wanted.namespaces.get(name)
        was, is_to_be = ((space.durability if space is not None else None) or before.durability for space in (old, new))
        if was == is_to_be or (keeps and not in_use(name)):
            continue
        why = (
            "some of its channels are in memory with another durability"
            if keeps
            else "this server stores nothing on disk"
        )
        left.append(Left(f"namespaces.{name}", why))
        if old is None:
            del found[name]
        else:
            found[name] = old
    return found, left
