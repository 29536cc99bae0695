"""apps.json: the apps, keys and namespaces that were made here and not in the configuration.

    {app id: {"keys": [{"id", "secret", "capability", "revocableTokens", "enabled", "limits"}],
              "namespaces": {id: hours}}}

    apps.json     replaced, never changed; for the owner alone
    apps.lock     held (flock) from reading to replacing: the server and `unbroken keys` take turns

Secrets are in it as they are, because signatures of token requests and JWTs can't be checked without them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from engine.auth.capability import FULL_TEXT, Capability
from engine.auth.keys import Key, parse_key
from engine.errors import PubSubError, StartupFailed
from engine.quota import NOTHING_SAID, Quota, parse_key_quotas
from engine.settings import LONGEST_PERSISTED_HOURS, Namespace

Stamp = tuple[int, int, int] | None


class AppsFile:
    """That of one data directory, which must be there before anything is changed."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "apps.json"

    def read(self) -> dict[str, Any]:
        """Apps by id, as they were stored. Raises: StartupFailed."""
        try:
            apps = orjson.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StartupFailed(f"{self.path}: cannot be read: {error}; repair or restore it") from error
        if not isinstance(apps, dict):
            raise StartupFailed(f"{self.path}: must hold a map of apps; repair or restore it")
        return apps

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """Apps as they are, to be changed; they are stored when the block ends, unless by an error.

        Nobody else changes them meanwhile. Raises: StartupFailed, OSError.
        """
        lock = os.open(self.path.with_name("apps.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            give_to_owner(lock, self.path.parent)
            fcntl.flock(lock, fcntl.LOCK_EX)
            apps = self.read()
            yield apps
            replace_file(self.path, orjson.dumps(apps, option=orjson.OPT_INDENT_2))
        finally:
            os.close(lock)

    @property
    def was_lost(self) -> bool:
        """It was made here once, and is not there any more."""
        return not self.path.exists() and self.path.with_name("apps.lock").exists()

    def stamp(self) -> Stamp:
        """Another one whenever the file is another; None: there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def replace_file(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Put it in place of what was there, whole or not at all; for the owner of the directory alone. Raises: OSError."""
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
    """What root makes in a server's directory the server must be able to read."""
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
    """As they are written down: what the key says itself."""
    of_each = key.connection_quota.given
    return {**key.quota.given, **({"connection": of_each} if of_each else {})}


def stored_key(key: Key) -> dict[str, object]:
    """As apps.json has it."""
    limits = limits_of(key)
    return {
        "id": key.key_id,
        "secret": key.secret,
        "capability": key.capability.text,
        "revocableTokens": key.revocable_tokens,
        "enabled": key.enabled,
        **({"limits": limits} if limits else {}),
    }


def keys_of(apps: dict[str, Any], file: Path) -> Iterable[Key]:
    """The keys of stored apps. Raises: StartupFailed."""
    for app_id, app in apps.items():
        try:
            for key in app["keys"]:
                of_app, key_id, secret = parse_key(f"{app_id}.{key['id']}:{key['secret']}")
                capability = Capability.parse(key["capability"])
                enabled = key.get("enabled", True) is True  # what is neither is a mistake on the safe side
                quotas = parse_key_quotas(key.get("limits", {}))
                yield Key(of_app, key_id, secret, capability, key["revocableTokens"] is True, enabled, *quotas)
        except (KeyError, TypeError, AttributeError) as error:
            # Not the entry itself, which may hold secrets.
            raise StartupFailed(f"{file}: app {app_id!r} is damaged: {error!r}; repair or restore it") from error
        except (PubSubError, ValueError) as error:  # KeyFormatError is one
            raise StartupFailed(f"{file}: app {app_id!r} is damaged: {error}; repair or restore it") from error


def namespaces_of(apps: dict[str, Any], file: Path) -> dict[str, dict[str, Namespace]]:
    """The namespaces of stored apps, by app and id; they are stored as hours by id. Raises: StartupFailed."""
    found: dict[str, dict[str, Namespace]] = {}
    for app_id, app in apps.items():
        stored = app.get("namespaces", {})
        if not isinstance(stored, dict) or not all(
            type(hours) is int and 0 <= hours <= LONGEST_PERSISTED_HOURS for hours in stored.values()
        ):
            raise StartupFailed(f"{file}: app {app_id!r} is damaged: its namespaces; repair or restore it")
        if stored:
            found[app_id] = {space: Namespace(space, hours) for space, hours in stored.items()}
    return found
