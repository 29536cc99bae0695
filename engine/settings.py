"""The settings that an operator may configure, and their TOML format.

    listen = "127.0.0.1:8080"        durability = "synced"        and the other fields of Settings
    [limits]                         any of engine.limits.Limits
    [limits.connection]              any of engine.quota.Quota; the same for app, key and channel
    [[apps]]                         id, limits, and
                                     keys: [{ key = "app.key:secret", capability, enabled, revocable_tokens, limits }]
    [namespaces.chat]                persisted_hours, durability, limits

The error for a wrong or unknown entry names the file, the entry and the reason."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta, Struct
from msgspec.structs import replace

from engine.auth.capability import FULL_TEXT, Capability
from engine.auth.keys import Key, KeyFormatError, is_app_id, parse_key
from engine.checked import Secret, Table, Wrong, checked, inside
from engine.errors import BadRequest, StartupFailed
from engine.guess import did_you_mean
from engine.limits import BODIES_AT_LEAST, Limits
from engine.names import namespace
from engine.quota import NOTHING_SAID, SCOPES, AppLimits, ChannelLimits, ConnectionLimits, KeyLimits, OwnLimits, Quota

Durability = Literal["synced", "written", "memory"]
"""synced: fsynced before ACK and delivery. written: in the operating system before ACK, survives a killed process.
memory: nothing is kept beyond the ring."""
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
DURABILITIES, LOG_FORMATS, LOG_LEVELS = get_args(Durability), get_args(LogFormat), get_args(LogLevel)
LONGEST_PERSISTED_HOURS = 24 * 365
DEFAULT_PERSISTED_HOURS = 24
PersistedHours = Annotated[int, Meta(ge=0, le=LONGEST_PERSISTED_HOURS)]


class Namespace(Struct, frozen=True):
    """Options of the channels whose name begins with ``<id>:``."""

    id: str
    persisted_hours: int = 0  # 0: held for the continuity window only
    durability: Durability | None = None  # None: the server's
    quota: Quota = NOTHING_SAID  # of each of its channels


class Plain(Table, frozen=True):
    """Settings with the same form in the file and in memory."""

    dev: bool = False
    dev_anywhere: bool = False  # ... even if other machines can reach it
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    durability: Durability = "synced"
    tls_ended_by_proxy: bool = False  # accept keys over plain connections: a proxy in front has received them by TLS


class Settings(Plain, frozen=True):
    """The whole configuration. Values are checked when they are parsed; engine.reloading says which can change."""

    host: str = "127.0.0.1"
    port: int = 8080
    data: Path = Path("data")
    tls_cert: Path | None = None
    tls_key: Path | None = None
    namespaces: Mapping[str, Namespace] = {}
    limits: Limits = Limits()
    quotas: Mapping[str, Quota] = {}  # of each app, key, connection, channel, unless it has its own
    app_quotas: Mapping[str, Quota] = {}  # by app
    keys: tuple[Key, ...] = ()

    def general_quota(self, scope: str) -> Quota:
        """The quota of an app, key, connection or channel without its own."""
        return self.quotas.get(scope, NOTHING_SAID)

    def app_quota(self, app_id: str) -> Quota:
        """The app's own quota, else the general one."""
        return self.app_quotas.get(app_id, NOTHING_SAID).over(self.general_quota("app"))

    def channel_quota(self, name: str) -> Quota:
        """The quota from the channel's namespace, else the general one."""
        options = self.namespaces.get(namespace(name))
        return (options.quota if options is not None else NOTHING_SAID).over(self.general_quota("channel"))

    @property
    def layout(self) -> str:
        """The retention class of each namespace, as text for the journal; see there."""
        return ";".join(f"{name}={space.persisted_hours}" for name, space in sorted(self.namespaces.items()))

    def within(self, memory: int) -> Settings:
        """These settings, on a machine with this many bytes of memory. Raises: StartupFailed."""
        limits = self.limits.within(memory)
        least = limits.least_bodies_bytes
        if limits.bodies_bytes < least:
            times = f"{BODIES_AT_LEAST} times limits.request_body_bytes and limits.max_frame_size"
            raise StartupFailed(
                f"limits.bodies_bytes: must be at least {times}, {least:,}, got {limits.bodies_bytes:,}"
            )
        return replace(self, limits=limits)

    def __post_init__(self) -> None:
        """Check rules that concern several entries. Raises: StartupFailed."""
        for space in self.namespaces.values():
            if space.persisted_hours and (space.durability or self.durability) == "memory":
                raise StartupFailed(f"namespaces.{space.id}: cannot be persisted, because its durability is memory")
        if self.limits.max_frame_size < self.limits.max_message_size:
            raise StartupFailed("limits.max_frame_size: must not be less than limits.max_message_size")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise StartupFailed("tls_cert, tls_key: TLS needs both a certificate and its key")
        if self.dev_anywhere and not self.dev:
            raise StartupFailed("dev_anywhere: says where development mode may listen, so it requires dev (--dev)")


def parse_listen(text: str) -> tuple[str, int]:
    """HOST:PORT, with an IPv6 address in brackets; port 0 picks a free one. Raises: ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"must be HOST:PORT with a port from 0 to 65535, got {text!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address must be in brackets, as in [::1]:8080, got {text!r}")
    if not host:
        raise ValueError(
            f"the host is missing in {text!r}; use [::] for all addresses of this machine, "
            "0.0.0.0 for all IPv4 addresses"
        )
    return host, int(port)


class _Limits(Limits, frozen=True):
    """[limits]"""

    app: AppLimits = AppLimits()
    key: KeyLimits = KeyLimits()
    connection: ConnectionLimits = ConnectionLimits()
    channel: ChannelLimits = ChannelLimits()


class _Namespace(Table, frozen=True):
    """[namespaces.<id>]"""

    persisted_hours: PersistedHours | None = None
    persisted: bool | None = None
    durability: Durability | None = None
    limits: ChannelLimits = ChannelLimits()

    def made(self, name: str) -> Namespace:
        """Raises: Wrong."""
        hours = self.persisted_hours
        if not name or ":" in name:
            raise Wrong("", "the name of a namespace must not be empty or contain colons")
        if hours is None:
            hours = DEFAULT_PERSISTED_HOURS if self.persisted else 0
        elif self.persisted is False and hours:
            raise Wrong("persisted", "is false, but persisted_hours is set")
        if self.durability == "memory" and hours:
            raise Wrong("durability", "a persisted namespace cannot be kept in memory only")
        return Namespace(name, hours, self.durability, self.limits.quota)


class _Key(Table, frozen=True):
    """One of [[apps]] keys."""

    key: Secret
    capability: dict[str, Any] | None = None
    revocable_tokens: bool = False
    enabled: bool = True
    limits: OwnLimits = OwnLimits()

    def made(self, app_id: str) -> Key:
        """Raises: Wrong."""
        try:
            of_app, key_id, secret = parse_key(self.key)
        except KeyFormatError as error:
            raise Wrong("key", str(error)) from None
        if of_app != app_id:
            raise Wrong("key", f"belongs to the app {of_app!r}, not to {app_id!r}")
        try:
            allowed = Capability.parse(FULL_TEXT if self.capability is None else self.capability)
        except BadRequest as error:
            raise Wrong("capability", str(error)) from None
        return Key(app_id, key_id, secret, allowed, self.revocable_tokens, self.enabled, *self.limits.quotas)


class _App(Table, frozen=True):
    """One of [[apps]]."""

    id: str
    keys: tuple[_Key | Secret, ...] = ()
    limits: AppLimits = AppLimits()


class _File(Plain, frozen=True):
    """The whole file."""

    listen: str = "127.0.0.1:8080"
    data: str = "data"
    tls_cert: str | None = None
    tls_key: str | None = None
    limits: _Limits = _Limits()
    namespaces: Mapping[str, Any] = {}
    apps: tuple[_App, ...] = ()


MISPLACED = "unknown setting here; {} belongs above the first [table] of the file"  # all below is part of that table


def load(path: Path) -> Settings:
    """The settings of a TOML file. Raises: StartupFailed."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise StartupFailed(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError:
        raise StartupFailed(f"{path}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # bad syntax or encoding, or a number with thousands of digits
        raise StartupFailed(f"{path}: not valid TOML: {error}") from error
    try:
        return _settings(checked(table, _File, table="table"))
    except Wrong as error:
        raise StartupFailed(f"{path}: {_told(error)}") from None
    except StartupFailed as error:
        raise StartupFailed(f"{path}: {error}") from None


def _settings(file: _File) -> Settings:
    """Raises: Wrong; StartupFailed, for errors that no single entry causes."""
    try:
        host, port = parse_listen(file.listen)
    except ValueError as error:
        raise Wrong("listen", str(error)) from None
    spaces = {}
    for name, table in file.namespaces.items():
        with inside(f"namespaces.{name}"):
            spaces[name] = checked(table, _Namespace, table="table").made(name)
    keys, app_quotas = _apps(file.apps)
    ring = file.limits.ring_entries_per_channel
    if ring & (ring - 1):
        raise Wrong("limits.ring_entries_per_channel", f"must be a power of two, got {ring:,}")
    return Settings(
        host=host,
        port=port,
        data=Path(file.data),
        tls_cert=Path(file.tls_cert) if file.tls_cert is not None else None,
        tls_key=Path(file.tls_key) if file.tls_key is not None else None,
        namespaces=spaces,
        limits=Limits(**{name: getattr(file.limits, name) for name in Limits.__struct_fields__}),
        quotas=_said({scope: getattr(file.limits, scope).quota for scope in SCOPES}),
        app_quotas=_said(app_quotas),
        keys=keys,
        **{name: getattr(file, name) for name in Plain.__struct_fields__},
    )


def _apps(apps: tuple[_App, ...]) -> tuple[tuple[Key, ...], dict[str, Quota]]:
    """All keys, and the quotas of their apps. Raises: Wrong."""
    found: dict[str, Key] = {}
    quotas: dict[str, Quota] = {}
    for at, app in enumerate(apps):
        with inside(f"apps[{at}]"):
            if not is_app_id(app.id):
                raise Wrong("id", "must have 1 to 64 characters without blanks, dots or colons")
            if app.id in quotas:
                raise Wrong("id", f"app {app.id!r} is defined twice")
            quotas[app.id] = app.limits.quota
            for number, entry in enumerate(app.keys):
                with inside(f"keys[{number}]"):
                    key = (entry if isinstance(entry, _Key) else _Key(key=entry)).made(app.id)
                    if key.name in found:
                        raise Wrong("key", f"key {key.name} is defined twice")
                    found[key.name] = key
    return tuple(found.values()), quotas


def _said(quotas: Mapping[str, Quota]) -> dict[str, Quota]:
    return {name: quota for name, quota in quotas.items() if quota != NOTHING_SAID}


def _told(error: Wrong) -> str:
    """The error text, with a hint if an entry stands in the wrong table."""
    if error.unknown and error.where != error.unknown and error.unknown in _File.__struct_fields__:
        return f"{error.where}: {MISPLACED.format(error.unknown)}"
    if error.unknown and "did you mean" not in error.reason:
        return f"{error}{did_you_mean(error.unknown, [f'limits.{name}' for name in Limits.__struct_fields__])}"
    return str(error)
