"""The data directory: what outlives the server, and the lock on it.

    lock        held while a server runs (flock); holds its pid
    secret      32 random bytes: seals tokens and connection keys, keys the hash of message ids
    apps.json   apps, their keys and namespaces that were made here: server/apps.py; apps.lock is held to change it
    revocations tokens that were taken back before their time
    nonces      token requests that were answered in the last minutes, and nonces.old: server/nonces.py
    alive       this and earlier lives of the server, a line each: 8 hex digits, and the last ms of which it is known
    journal/    the journal

Files are replaced, never changed: a crash leaves the old one or the new one. One that is damaged or missing is refused,
not made anew, because everything that hangs on it would be lost without a word. Only ``alive`` may be: then clients are
told that their connections can't be resumed, and lose no message by it."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from engine.auth.sealing import SECRET_BYTES, derive_key
from engine.errors import StartupFailed
from server.apps import AppsFile, replace_file

LIVES = 8  # that are remembered: more than can have ended within the time for which connections are kept
_LIFE = re.compile(r"([0-9a-f]{8}) ([0-9]{1,15})")


class DataDirectory:
    """Locked from ``open`` until ``close``."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self.apps = AppsFile(path)
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
            replace_file(file, secret)
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
        lines = "".join(f"{life:08x} {alive_ms}\n" for life, alive_ms in lives)
        replace_file(self.path / "alive", lines.encode(), sync=False)

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
        replace_file(self.path / "revocations", content)
