"""The data directory: everything that outlives the server, and the lock on it.

    lock        held while a server runs (flock); holds its pid
    secret      32 random bytes: seals tokens and connection keys, keys the hash of message ids; their checksum, 8 bytes
    apps.json   apps, their keys and namespaces that were created here: server/apps.py; apps.lock is held to change it,
                apps.json.copy is restored when it is damaged
    first-key   the key that the server created at its first start, for the operator; the server does not read it again
    revocations tokens that were revoked
    nonces      token requests that were answered in the last minutes, and nonces.old: server/nonces.py
    alive       this and earlier lives of the server, a line each: 8 hex digits, the last ms at which it is known to
                have lived, and the ms of the newest connection key that it issued
    issued      the newest key alone, written before it is issued: 8 hex digits, ms
    journal/    the journal

Files are replaced, never changed: a crash leaves the old one or the new one. A damaged or missing file is refused and
not created again, because everything that depends on it would be lost silently. The message says how to get keys,
journal and messages back, and never advises removing anything. Only ``alive`` and ``issued`` may be damaged: then
clients are told that their connections cannot be resumed, and lose no message. ``issued`` is changed in place: a torn
one counts as missing."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from engine.auth.sealing import SECRET_BYTES, derive_key
from engine.errors import StartupFailed
from server.apps import AppsFile, replace_file

CHECKSUM_BYTES = 8  # of the secret; one that has none is of an earlier version, and gets it
LIVES = 8  # that are remembered: more than can have ended within the time for which connections are kept
UNTOLD_MS = 5_000  # an older server did not note its keys: the time between two of its notes
_LIFE = re.compile(r"([0-9a-f]{8}) ([0-9]{1,15})(?: ([0-9]{1,15}))?")


class DataDirectory:
    """Locked from ``open`` until ``close``."""

    def __init__(self, path: Path, lock: int, *, new_secret: bool = False) -> None:
        self.path = path
        self._lock = lock
        self.apps = AppsFile(path)
        self.has_new_secret = new_secret  # asked for, where there may have been one
        self.secret = self._make_secret() if new_secret else self._read_secret()
        self.dedup_key = derive_key(self.secret, "message ids")[:16]
        self.earlier_lives: dict[int, int] = {}
        """Earlier runs of the server, and the last ms at which each is known to have lived; as far as it is known."""
        self.newest_keys: dict[int, int] = {}
        """And the ms of the newest connection key of each."""
        self._read_lives()
        self.life = int.from_bytes(os.urandom(4), "big")
        self._newest_key = 0
        self._issued = -1  # open from the first key on

    @classmethod
    def open(cls, path: Path, *, new_secret: bool = False) -> DataDirectory:
        """
        Args:
            new_secret: create a new one in any case: everything sealed with the old one becomes invalid.
        Raises: StartupFailed, if the directory is unusable, or in use.
        """
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
                f"{path}: another server (process {holder}) uses this data directory; stop it, or give "
                "this server a directory of its own (--data)"
            ) from None
        except OSError as error:
            os.close(lock)
            raise StartupFailed(f"{path}: cannot be locked: {error.strerror}; use a local file system") from error
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            return cls(path, lock, new_secret=new_secret)
        except OSError as error:
            os.close(lock)
            raise StartupFailed(f"{error.filename or path}: cannot be used: {error.strerror}") from error
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Release the directory for another server. Calling it again does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._issued >= 0:
            os.close(self._issued)
            self._issued = -1

    def __enter__(self) -> DataDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read_secret(self) -> bytes:
        file = self.path / "secret"
        restore = restoring()
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            for remains in ("apps.json", "alive", "journal"):
                if (self.path / remains).exists():
                    raise StartupFailed(f"{file}: is missing, although {remains} exists; {restore}") from None
            return self._make_secret()
        secret, checksum = content[:SECRET_BYTES], content[SECRET_BYTES:]
        if len(content) not in (SECRET_BYTES, SECRET_BYTES + CHECKSUM_BYTES):
            raise StartupFailed(f"{file}: has {len(content)} bytes instead of {SECRET_BYTES}; {restore}")
        if not checksum:
            replace_file(file, secret + _checksum(secret))
        elif checksum != _checksum(secret):
            raise StartupFailed(f"{file}: is damaged: its checksum does not match; {restore}")
        return secret

    def _make_secret(self) -> bytes:
        secret = os.urandom(SECRET_BYTES)
        replace_file(self.path / "secret", secret + _checksum(secret))
        return secret

    def _read_lives(self) -> None:
        for line in self._lines("alive"):
            match = _LIFE.fullmatch(line)
            if match is not None:
                life, alive_ms = int(match[1], 16), int(match[2])
                self.earlier_lives[life] = alive_ms
                self.newest_keys[life] = alive_ms + UNTOLD_MS if match[3] is None else int(match[3])
        for line in self._lines("issued"):
            match = _LIFE.fullmatch(line)
            if match is not None and int(match[1], 16) in self.newest_keys:
                life = int(match[1], 16)
                self.newest_keys[life] = max(self.newest_keys[life], int(match[2]))

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.path / name).read_text("ascii").splitlines()[:LIVES]
        except (FileNotFoundError, UnicodeDecodeError):
            return []

    def note_alive(self, now_ms: int) -> None:
        """Not synced: after a power cut connections may be a few seconds less resumable."""
        lives = [
            (self.life, now_ms, self._newest_key),
            *((life, alive_ms, self.newest_keys[life]) for life, alive_ms in self.earlier_lives.items()),
        ]
        lines = "".join(f"{life:08x} {alive_ms} {newest}\n" for life, alive_ms, newest in lives[:LIVES])
        replace_file(self.path / "alive", lines.encode(), sync=False)

    def note_key(self, issued_ms: int) -> None:
        """A connection key is about to be issued. Not synced either: a crash of the server alone loses nothing."""
        self._newest_key = issued_ms
        with suppress(OSError):  # a full disk, perhaps: ``note_alive`` says so, and no client need suffer for it now
            if self._issued < 0:
                self._issued = os.open(self.path / "issued", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._issued, f"{self.life:08x} {issued_ms:015d}\n".encode(), 0)

    def keep_first_key(self, text: str) -> Path:
        """Save the first key in a file, because printed text may end in a log. Raises: OSError."""
        replace_file(self.path / "first-key", f"{text}\n".encode())
        return self.path / "first-key"

    def revocations(self) -> bytes | None:
        """The stored revocations; None: there are none. Raises: StartupFailed."""
        file = self.path / "revocations"
        try:
            return file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StartupFailed(f"{file}: cannot be read: {error.strerror}") from error

    def keep_revocations(self, content: bytes) -> None:
        replace_file(self.path / "revocations", content)

    def set_revocations_aside(self) -> None:
        """Set the damaged revocations aside, for the operator to inspect. Raises: OSError."""
        (self.path / "revocations").replace(self.path / "revocations.damaged")


def restoring() -> str:
    """Advice for an operator about a damaged file that can be created again, at the price of its contents."""
    return (
        "restore it from a backup, or start the server once with --new-secret added to its options: this ends sessions "
        "and tokens, and keeps keys, journal and messages"
    )


def _checksum(secret: bytes) -> bytes:
    return hashlib.sha256(b"secret" + secret).digest()[:CHECKSUM_BYTES]
