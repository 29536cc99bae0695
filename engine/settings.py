"""What an operator may configure, and reading it from TOML.

    listen = "127.0.0.1:8080"        durability = "synced"        and whatever else is a field of Settings
    [limits]                         any of engine.limits.Limits
    [limits.connection]              any of engine.quota.Quota; the same for app, key and channel
    [[apps]]                         id, limits, and
                                     keys: [{ key = "app.key:secret", capability, enabled, revocable_tokens, limits }]
    [namespaces.chat]                persisted_hours, durability, limits

A wrong or unknown entry is refused with the file, the entry and the reason."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from engine.auth.capability import Capability
from engine.auth.keys import Key, KeyFormatError, is_app_id, parse_key
from engine.errors import BadRequest, StartupFailed
from engine.guess import did_you_mean
from engine.limits import BODIES_AT_LEAST, Limits
from engine.names import namespace
from engine.quota import NOTHING_SAID, SCOPES, Quota, parse_key_quotas, parse_quota

DURABILITIES = ("synced", "written", "memory")
"""synced: fsynced before ACK and delivery. written: in the operating system before ACK, survives a killed process.
memory: nothing is kept beyond the ring."""
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
LONGEST_PERSISTED_HOURS = 24 * 365
DEFAULT_PERSISTED_HOURS = 24
LARGEST_LIMIT = 1 << 40
SMALLEST: Mapping[str, int] = {  # else no SDK gets in, or the server is busy with nothing but timers
    "max_frame_size": 1024,
    "request_head_bytes": 1024,
    "max_idle_interval_ms": 100,
    "ring_bytes": 0,  # as the machine's memory allows
    "bodies_bytes": 0,
}
LARGEST: Mapping[str, int] = {
    "max_message_size": 1 << 28,  # messages are held in memory several times
    "max_frame_size": 1 << 28,
    "request_head_bytes": (1 << 24) - 1,  # each newcomer may hold so much
    "messages_per_publish": 1000,  # a message's place in its entry has three digits
    "ring_entries_per_channel": 1 << 24,
    "window_seconds": 86_400,
    "connection_state_seconds": 86_400,
    "max_idle_interval_ms": 3_600_000,
    "handshake_seconds": 600,
    "drain_seconds": 3_600,
}


@dataclass(frozen=True, slots=True)
class Namespace:
    """Options of the channels whose name begins with ``<id>:``."""

    id: str
    persisted_hours: int = 0  # 0: held for the continuity window only
    durability: str | None = None  # None: the server's
    quota: Quota = NOTHING_SAID  # of each of its channels


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is configured. Values are checked where they come in; engine.reloading says what can change."""

    host: str = "127.0.0.1"
    port: int = 8080
    data: Path = Path("data")
    dev: bool = False
    dev_anywhere: bool = False  # ... also where others than this machine can reach it
    log_format: str = "text"
    log_level: str = "info"
    durability: str = "synced"
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    quotas: Mapping[str, Quota] = field(
        default_factory=dict
    )  # of each app, key, connection, channel, unless it has its own
    app_quotas: Mapping[str, Quota] = field(default_factory=dict)  # by app
    keys: tuple[Key, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ended_by_proxy: bool = False  # keys may come over plain connections: those of a proxy to which they come by TLS

    def general_quota(self, scope: str) -> Quota:
        """Of each app, key, connection or channel that has none of its own."""
        return self.quotas.get(scope, NOTHING_SAID)

    def app_quota(self, app_id: str) -> Quota:
        """Its own, else the general one."""
        return self.app_quotas.get(app_id, NOTHING_SAID).over(self.general_quota("app"))

    def channel_quota(self, name: str) -> Quota:
        """As its namespace or the general one says."""
        options = self.namespaces.get(namespace(name))
        return (options.quota if options is not None else NOTHING_SAID).over(self.general_quota("channel"))

    @property
    def layout(self) -> str:
        """Which namespaces have which class of retention, for the journal: see there."""
        return ";".join(f"{name}={space.persisted_hours}" for name, space in sorted(self.namespaces.items()))

    def within(self, memory: int) -> Settings:
        """These, on a machine with so many bytes of memory. Raises: StartupFailed."""
        limits = self.limits.within(memory)
        least = limits.least_bodies_bytes
        if limits.bodies_bytes < least:
            times = f"{BODIES_AT_LEAST} times limits.request_body_bytes and limits.max_frame_size"
            raise StartupFailed(
                f"limits.bodies_bytes: must be at least {times}, {least:,}, got {limits.bodies_bytes:,}"
            )
        return replace(self, limits=limits)

    def __post_init__(self) -> None:
        """What no single entry is to blame for. Raises: StartupFailed."""
        for space in self.namespaces.values():
            if space.persisted_hours and (space.durability or self.durability) == "memory":
                raise StartupFailed(f"namespaces.{space.id}: is to be persisted, but its durability is memory")
        if self.limits.max_frame_size < self.limits.max_message_size:
            raise StartupFailed("limits.max_frame_size: must not be less than limits.max_message_size")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise StartupFailed("tls_cert, tls_key: TLS needs both, a certificate and its key")
        if self.dev_anywhere and not self.dev:
            raise StartupFailed("dev_anywhere: says where development mode may listen, and needs dev (--dev)")


def parse_listen(text: str) -> tuple[str, int]:
    """HOST:PORT, with an IPv6 address in brackets; port 0 picks a free one. Raises: ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"must be HOST:PORT with a port from 0 to 65535, got {text!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address goes into brackets, as in [::1]:8080, got {text!r}")
    if not host:
        raise ValueError(
            f"the host is missing in {text!r}; [::] is every address of this machine, 0.0.0.0 every one of IPv4"
        )
    return host, int(port)


class _Entries:
    """A table of the file, taken apart entry by entry; what is left over is unknown."""

    def __init__(self, file: Path, path: str, table: object) -> None:
        self._file = file
        self._path = path
        if not isinstance(table, dict):
            raise self.wrong("", "must be a table")
        self._rest = dict(table)
        self._known: list[str] = []  # names that were asked for

    def wrong(self, name: str, reason: str) -> StartupFailed:
        where = ".".join(part for part in (self._path, name) if part)
        return StartupFailed(f"{self._file}: {where}: {reason}")

    def take(self, name: str, kind: type, default: Any = None) -> Any:
        self._known.append(name)
        if name not in self._rest:
            return default
        value = self._rest.pop(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            # In tables and arrays there may be a key, in the wrong brackets: as in [apps] for [[apps]].
            harmless = isinstance(value, str | int | float) and name not in _KEYS_MAY_STAND_IN
            raise self.wrong(name, f"must be {_KINDS[kind]}" + (f", got {value!r}" if harmless else ""))
        return value

    def sub(self, name: str) -> _Entries:
        self._known.append(name)
        return _Entries(self._file, ".".join(part for part in (self._path, name) if part), self._rest.pop(name, {}))

    def names(self) -> list[str]:
        return list(self._rest)

    def end(self, elsewhere: Iterable[str] = ()) -> None:
        """``elsewhere``: names with the tables that they belong to, for who has put one of them here."""
        for name in self._rest:
            if self._path and name in TOP:
                raise self.wrong(name, MISPLACED.format(name))
            hint = did_you_mean(name, self._known) or did_you_mean(name, elsewhere)
            raise self.wrong(name, f"unknown setting{hint}")

    def check(self, table: str, given: Mapping[str, object] | None) -> None:
        """Of one that somebody else takes apart. Raises: StartupFailed, for what belongs to the file itself."""
        for name in given or ():
            if name in TOP:
                raise self.wrong(f"{table}.{name}", MISPLACED.format(name))


TOP = {known.name for known in fields(Settings)} - {"host", "port", "keys", "quotas", "app_quotas"} | {"listen", "apps"}
MISPLACED = "unknown setting here; {} belongs above the first [table] of the file"  # of which all else is part
_KEYS_MAY_STAND_IN = ("apps", "keys", "key")
_KINDS = {int: "a whole number", str: "a string", bool: "true or false", list: "an array", dict: "a table"}


def load(path: Path, settings: Settings | None = None) -> Settings:
    """The settings of a TOML file, on top of ``settings``. Raises: StartupFailed."""
    settings = settings if settings is not None else Settings()
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise StartupFailed(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError:
        raise StartupFailed(f"{path}: not valid TOML: nested too deeply") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartupFailed(f"{path}: not valid TOML: {error}") from error
    top = _Entries(path, "", table)
    changes: dict[str, Any] = {}
    listen = top.take("listen", str)
    if listen is not None:
        try:
            changes["host"], changes["port"] = parse_listen(listen)
        except ValueError as error:
            raise top.wrong("listen", str(error)) from error
    for name in ("data", "tls_cert", "tls_key"):
        text = top.take(name, str)
        if text is not None:
            changes[name] = Path(text)
    changes["dev"] = top.take("dev", bool, settings.dev)
    changes["dev_anywhere"] = top.take("dev_anywhere", bool, settings.dev_anywhere)
    changes["tls_ended_by_proxy"] = top.take("tls_ended_by_proxy", bool, settings.tls_ended_by_proxy)
    changes["durability"] = _one_of(top, "durability", DURABILITIES, settings.durability)
    changes["log_format"] = _one_of(top, "log_format", LOG_FORMATS, settings.log_format)
    changes["log_level"] = _one_of(top, "log_level", LOG_LEVELS, settings.log_level)
    limits = top.sub("limits")
    changes["quotas"] = {scope: quota for scope in SCOPES if (quota := _quota(limits, scope, scope)) != NOTHING_SAID}
    changes["limits"] = _limits(limits, settings.limits)
    changes["namespaces"] = _namespaces(top.sub("namespaces"))
    changes["keys"], changes["app_quotas"] = _apps(top, path)
    top.end(elsewhere=[f"limits.{known.name}" for known in fields(Limits)])
    try:
        return replace(settings, **changes)
    except StartupFailed as error:
        raise StartupFailed(f"{path}: {error}") from None


def _one_of(entries: _Entries, name: str, words: tuple[str, ...], default: str | None) -> str | None:
    value = entries.take(name, str, default)
    if value is not None and value not in words:
        raise entries.wrong(name, f"must be one of {', '.join(words)}, got {value!r}{did_you_mean(value, words)}")
    return str(value) if value is not None else None


def _limits(entries: _Entries, limits: Limits) -> Limits:
    changes: dict[str, int] = {}
    for known in fields(Limits):
        value = entries.take(known.name, int)
        if value is None:
            continue
        least, most = SMALLEST.get(known.name, 1), LARGEST.get(known.name, LARGEST_LIMIT)
        if not least <= value <= most:
            raise entries.wrong(known.name, f"must be from {least:,} to {most:,}, got {value:,}")
        if known.name == "ring_entries_per_channel" and value & (value - 1):
            raise entries.wrong(known.name, f"must be a power of two, got {value:,}")
        changes[known.name] = value
    entries.end()
    return replace(limits, **changes)


def _namespaces(entries: _Entries) -> dict[str, Namespace]:
    found = {}
    for name in entries.names():
        if not name or ":" in name:
            raise entries.wrong(name, "a namespace has a name without colons")
        options = entries.sub(name)
        hours = options.take("persisted_hours", int)
        persisted = options.take("persisted", bool)
        if hours is None:
            hours = DEFAULT_PERSISTED_HOURS if persisted else 0
        elif persisted is False and hours:
            raise options.wrong("persisted", "is false, but persisted_hours is set")
        if not 0 <= hours <= LONGEST_PERSISTED_HOURS:
            raise options.wrong("persisted_hours", f"must be from 0 to {LONGEST_PERSISTED_HOURS:,}, got {hours:,}")
        durability = _one_of(options, "durability", DURABILITIES, None)
        if durability == "memory" and hours:
            raise options.wrong("durability", "a persisted namespace cannot be kept in memory only")
        quota = _quota(options, "limits", "channel")
        options.end()
        found[name] = Namespace(name, hours, durability, quota)
    return found


def _quota(entries: _Entries, name: str, scope: str) -> Quota:
    given = entries.take(name, dict)
    entries.check(name, given)
    try:
        return parse_quota(given, scope) if given is not None else NOTHING_SAID
    except ValueError as error:
        raise entries.wrong(f"{name}.{str(error).partition(':')[0]}", str(error).partition(": ")[2]) from error


def _apps(top: _Entries, path: Path) -> tuple[tuple[Key, ...], dict[str, Quota]]:
    """All keys, and the quotas of their apps."""
    found: list[Key] = []
    quotas: dict[str, Quota] = {}
    for at, table in enumerate(top.take("apps", list, [])):
        app = _Entries(path, f"apps[{at}]", table)
        app_id = app.take("id", str)
        if app_id is None:
            raise app.wrong("id", "is missing")
        if not is_app_id(app_id):
            raise app.wrong("id", "must have 1 to 64 characters, and no blanks, dots or colons")
        if app_id in quotas:
            raise app.wrong("id", f"the app {app_id!r} is there twice")
        quotas[app_id] = _quota(app, "limits", "app")  # all of them, to see who comes twice
        for number, entry in enumerate(app.take("keys", list, [])):
            key = _Entries(path, f"apps[{at}].keys[{number}]", {"key": entry} if isinstance(entry, str) else entry)
            found.append(_key(key, app_id))
        app.end()
    names = [key.name for key in found]
    for name in names:
        if names.count(name) > 1:
            raise top.wrong("apps", f"the key {name} is there twice")
    return tuple(found), {app_id: quota for app_id, quota in quotas.items() if quota != NOTHING_SAID}


def _key(entries: _Entries, app_id: str) -> Key:
    text = entries.take("key", str)
    if text is None:
        raise entries.wrong("key", "is missing")
    try:
        of_app, key_id, secret = parse_key(text)
    except KeyFormatError as error:
        raise entries.wrong("key", str(error)) from error
    if of_app != app_id:
        raise entries.wrong("key", f"belongs to the app {of_app!r}, not to {app_id!r}")
    capability = entries.take("capability", dict)
    revocable = entries.take("revocable_tokens", bool, False)
    enabled = entries.take("enabled", bool, True)
    quotas = _key_quotas(entries)
    entries.end()
    try:
        allowed = Capability.parse(capability if capability is not None else {"*": ["*"]})
    except BadRequest as error:
        raise entries.wrong("capability", str(error)) from error
    return Key(app_id, key_id, secret, allowed, revocable, enabled, *quotas)


def _key_quotas(entries: _Entries) -> tuple[Quota, Quota]:
    """A key's own, and that of each of its connections."""
    given = entries.take("limits", dict)
    entries.check("limits", given)
    try:
        return parse_key_quotas(given if given is not None else {})
    except ValueError as error:
        raise entries.wrong(f"limits.{str(error).partition(':')[0]}", str(error).partition(": ")[2]) from error
