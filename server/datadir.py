"""The data directory: what outlives the server, and the lock on it.

    lock        held while a server runs (flock); holds its pid
    secret      32 random bytes: seals tokens and connection keys, keys the hash of message ids
    apps.json   apps, their keys and namespaces that were made here: at first start, or by provisioning
    revocations tokens that were taken back before their time
    alive       this and earlier lives of the server, a line each: 8 hex digits, and the last ms of which it is known
    journal/    the journal

Files are replaced, never changed: a crash leaves the old one or the new one. One that is damaged or missing is refused,
not made anew, because everything that hangs on it would be lost without a word. Only ``alive`` may be: then clients are
told that their connections can't be resumed, and lose no message by it."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from engine.auth.capability import Capability
from engine.auth.keys import Key, KeyFormatError, parse_key
from engine.auth.sealing import SECRET_BYTES, derive_key
from engine.errors import PubSubError, StartupFailed
from engine.settings import LONGEST_PERSISTED_HOURS, Namespace

LIVES = 8  # that are remembered: more than can have ended within the time for which connections are kept
_LIFE = re.compile(r"([0-9a-f]{8}) ([0-9]{1,15})")


class DataDirectory:
    """Locked from ``open`` until ``close``."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self.secret = self._read_secret()
        self.dedup_key = derive_key(self.secret, "message ids")[:16]
        self.earlier_lives = self._read_lives()
        self.life = int.from_bytes(os.urandom(4), "big")

    @classmethod
    def open(cls, path: Path) -> DataDirectory:
        """Raises: StartupFailed, when it cannot be used, or is in use."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartupFailed(f"{path}: cannot be used as data directory: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise StartupFailed(
                f"{path}: another server (process {holder}) uses this data directory; stop it, or give another --data"
            ) from None
        except OSError as error:
            os.close(lock)
            raise StartupFailed(f"{path}: cannot be locked: {error.strerror}; use a local file system") from error
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            return cls(path, lock)
        except OSError as error:
            os.close(lock)
            raise StartupFailed(f"{path}: cannot be used as data directory: {error.strerror}") from error
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Let another server have it. Calling it again does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> DataDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read_secret(self) -> bytes:
        file = self.path / "secret"
        try:
            secret = file.read_bytes()
        except FileNotFoundError:
            for remains in ("apps.json", "alive", "journal"):
                if (self.path / remains).exists():
                    raise StartupFailed(
                        f"{file}: is missing, though {remains} is there; restore it from a backup (with a new secret, "
                        f"tokens and connection keys would become invalid: remove {self.path / remains} to accept that)"
                    ) from None
            secret = os.urandom(SECRET_BYTES)
            self._replace("secret", secret)
            return secret
        if len(secret) != SECRET_BYTES:
            raise StartupFailed(
                f"{file}: has {len(secret)} bytes instead of {SECRET_BYTES}; restore it from a backup, "
                "or remove it to begin with a new one (tokens and connection keys issued so far become invalid)"
            )
        return secret

    def _read_lives(self) -> dict[int, int]:
        """Earlier runs of the server, and the last ms at which each is known to have lived; as far as it is known."""
        try:
            lines = (self.path / "alive").read_text("ascii").splitlines()
        except (FileNotFoundError, UnicodeDecodeError):
            return {}
        matches = [match for match in map(_LIFE.fullmatch, lines[:LIVES]) if match is not None]
        return {int(match[1], 16): int(match[2]) for match in matches}

    def note_alive(self, now_ms: int) -> None:
        """Not synced: after a power cut connections may be a few seconds less resumable."""
        lives = [(self.life, now_ms), *self.earlier_lives.items()][:LIVES]
        self._replace("alive", "".join(f"{life:08x} {alive_ms}\n" for life, alive_ms in lives).encode(), sync=False)

    def apps(self) -> dict[str, Any]:
        """Apps by id: what provisioning made of them, and their keys. Raises: StartupFailed."""
        file = self.path / "apps.json"
        try:
            apps = orjson.loads(file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StartupFailed(f"{file}: cannot be read: {error}; repair or restore it") from error
        if not isinstance(apps, dict):
            raise StartupFailed(f"{file}: must hold a map of apps; repair or restore it")
        return apps

    def keep_apps(self, apps: dict[str, Any]) -> None:
        self._replace("apps.json", orjson.dumps(apps, option=orjson.OPT_INDENT_2))

    def revocations(self) -> bytes | None:
        """As they were kept; None: none were. Raises: StartupFailed."""
        file = self.path / "revocations"
        try:
            return file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StartupFailed(f"{file}: cannot be read: {error.strerror}") from error

    def keep_revocations(self, content: bytes) -> None:
        self._replace("revocations", content)

    def _replace(self, name: str, content: bytes, *, sync: bool = True) -> None:
        new = self.path / f"{name}.new"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        new.replace(self.path / name)
        if sync:
            directory = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


def keys_of(apps: dict[str, Any], file: Path) -> Iterable[Key]:
    """The keys of stored apps. Raises: StartupFailed."""
    for app_id, app in apps.items():
        try:
            for key in app["keys"]:
                of_app, key_id, secret = parse_key(f"{app_id}.{key['id']}:{key['secret']}")
                yield Key(of_app, key_id, secret, Capability.parse(key["capability"]), key["revocableTokens"] is True)
        except (KeyError, TypeError) as error:
            # Not the entry itself, which may hold secrets.
            raise StartupFailed(f"{file}: app {app_id!r} is damaged: {error!r}; repair or restore it") from error
        except (PubSubError, KeyFormatError) as error:
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
