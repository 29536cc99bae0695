"""apps.json: the apps, keys and namespaces that were created here and not in the configuration.

    {app id: {"keys": [{"id", "secret", "capability", "revocableTokens", "enabled", "limits"}],
              "namespaces": {id: hours}}}

    apps.json        replaced, never changed; readable by the owner only
    apps.json.copy   the last good version: the operator restores it when apps.json is damaged or missing
    apps.lock        held (flock) from reading to replacing: the server and `unbroken keys` take turns

Secrets are stored in the clear, because signatures of token requests and JWTs cannot be checked without them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import orjson
from msgspec import Meta, Struct

from engine.auth.capability import FULL_TEXT, Capability
from engine.auth.keys import Key, parse_key
from engine.checked import Secret, Wrong, checked
from engine.errors import PubSubError, StartupFailed
from engine.quota import NOTHING_SAID, OwnLimits, Quota
from engine.settings import Namespace, PersistedHours

Stamp = tuple[int, int, int] | None


class AppsFile:
    """The apps file of one data directory, which must exist before anything is changed."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "apps.json"

    def read(self) -> dict[str, Any]:
        """Apps by id, as they were stored. Raises: StartupFailed."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            if _holds_apps(_copy_of(self.path)):
                missing = f"is missing, although {_copy_of(self.path).name} beside it lists apps"
                raise StartupFailed(f"{self.path}: {missing}; {_putting_back(self.path)}") from None
            return {}
        except OSError as error:
            raise StartupFailed(f"{self.path}: cannot be read: {error.strerror}") from error
        return _parse(content, self.path)

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """The current apps, to be changed; they are stored when the block ends without an error.

        Nobody else changes them meanwhile. Raises: StartupFailed, OSError.
        """
        with self._alone():
            apps = self.read()
            yield apps
            replace_file(self.path, orjson.dumps(apps, option=orjson.OPT_INDENT_2))

    def keep_copy(self) -> None:
        """Take a copy, if the file is good and has changed, perhaps by hand.

        Not synced: it is read only if the other file is damaged, and has to be good then. With very many apps it takes
        long, so a thread does it if others wait.
        """
        copy = _copy_of(self.path)
        with contextlib.suppress(OSError):  # a full disk, perhaps: that is told elsewhere
            if not self.path.exists() or self.path.read_bytes() == _read_or_nothing(copy):
                return
            with self._alone():
                if _holds_apps(self.path):
                    replace_file(copy, self.path.read_bytes(), sync=False)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = os.open(self.path.with_name("apps.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            give_to_owner(lock, self.path.parent)
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @property
    def was_lost(self) -> bool:
        """The file was created here once, and is now missing, and so is its copy."""
        return not self.path.exists() and self.path.with_name("apps.lock").exists()

    def stamp(self) -> Stamp:
        """Changes whenever the file does; None: there is no file."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def _copy_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.copy")


def _read_or_nothing(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _holds_apps(path: Path) -> bool:
    """Does the file exist, and is it valid?"""
    try:
        apps = _parse(path.read_bytes(), path)
        list(keys_of(apps, path))
        namespaces_of(apps, path)
    except (OSError, StartupFailed):
        return False
    return True


def _putting_back(path: Path) -> str:
    """Advice for an operator about a damaged or missing file, to get all keys back."""
    copy = _copy_of(path)
    if not _holds_apps(copy):
        return "restore it from a backup"
    command = shlex.join(["cp", "-p", str(copy), str(path)])
    return f"restore its last contents with `{command}`, or restore it from a backup"


def _damaged(path: Path, what: str) -> StartupFailed:
    return StartupFailed(f"{path}: {what}; repair it by hand, or {_putting_back(path)}")


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    """Raises: StartupFailed."""
    try:
        apps = orjson.loads(content)
    except ValueError as error:
        raise _damaged(path, f"cannot be read: {error}") from error
    if not isinstance(apps, dict):
        raise _damaged(path, "must be a map of apps")
    return apps


def replace_file(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Replace the file atomically; readable by the owner of the directory only. Raises: OSError."""
    new = path.with_name(f"{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        give_to_owner(file.fileno(), path.parent)
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    new.replace(path)
    if sync:
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def give_to_owner(descriptor: int, directory: Path) -> None:
    """The server must be able to read files that root creates in its directory."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def new_key(
    app_id: str,
    capability: Capability | None = None,
    *,
    revocable: bool = False,
    quotas: tuple[Quota, Quota] = (NOTHING_SAID, NOTHING_SAID),
) -> Key:
    """A key with a random name and secret; ``quotas``: its own, and that of each of its connections."""
    granted = capability if capability is not None else Capability.parse(FULL_TEXT)
    return Key(app_id, secrets.token_hex(3), secrets.token_hex(16), granted, revocable, True, *quotas)


def limits_of(key: Key) -> dict[str, object]:
    """The limits that the key itself sets, as written in the file."""
    of_each = key.connection_quota.given
    return {**key.quota.given, **({"connection": of_each} if of_each else {})}


def stored_key(key: Key) -> dict[str, object]:
    """The key in the form of apps.json."""
    limits = limits_of(key)
    return {
        "id": key.key_id,
        "secret": key.secret,
        "capability": key.capability.text,
        "revocableTokens": key.revocable_tokens,
        "enabled": key.enabled,
        **({"limits": limits} if limits else {}),
    }


class _StoredKey(Struct, frozen=True, rename="camel"):
    """What is neither true nor false somebody has written by hand: such a mistake is on the safe side."""

    id: Secret
    secret: Secret
    capability: str | dict[str, Any]
    revocable_tokens: object
    enabled: object = True
    limits: OwnLimits = OwnLimits()


class _StoredApp(Struct, frozen=True):
    keys: tuple[_StoredKey, ...]
    namespaces: Annotated[Mapping[str, PersistedHours], Meta(description="hours by namespace, up to a year")] = {}


def keys_of(apps: dict[str, Any], file: Path) -> Iterable[Key]:
    """The keys of stored apps. Raises: StartupFailed."""
    for app_id, app in apps.items():
        try:
            for key in checked(app, _StoredApp).keys:
                of_app, key_id, secret = parse_key(f"{app_id}.{key.id}:{key.secret}")
                flags = key.revocable_tokens is True, key.enabled is True
                yield Key(of_app, key_id, secret, Capability.parse(key.capability), *flags, *key.limits.quotas)
        except (PubSubError, ValueError) as error:  # Wrong and KeyFormatError are some
            raise _damaged(file, f"app {app_id!r} is damaged: {error}") from error


def namespaces_of(apps: dict[str, Any], file: Path) -> dict[str, dict[str, Namespace]]:
    """The namespaces of stored apps, by app and id. Raises: StartupFailed."""
    found: dict[str, dict[str, Namespace]] = {}
    for app_id, app in apps.items():
        try:
            stored = checked(app, _StoredApp).namespaces
        except Wrong as error:
            raise _damaged(file, f"app {app_id!r} is damaged: {error}") from error
        if stored:
            found[app_id] = {space: Namespace(space, hours) for space, hours in stored.items()}
    return found
