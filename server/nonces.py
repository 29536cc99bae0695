"""Remembers answered token requests across restarts, so that each counts only once.

    nonces, nonces.old      in the data directory; a line each: until when it has to be known (steady ms), and its mac

    remember --one write--> nonces        is it older than the window? -> it becomes nonces.old, and a new one begins

All of ``nonces.old`` has expired once ``nonces`` is as old as the window, so the requests of two windows bound both.
A request is written before its token is issued, but not synced: it survives ``kill -9``; a power cut may lose the last
seconds."""

from __future__ import annotations

import os
import re
from pathlib import Path

from engine.errors import PubSubError, StartupFailed

_LINE = re.compile(rb"([0-9]{1,15}) ([A-Za-z0-9+/=]{44})")


class NonceFile:
    """The file of one data directory."""

    def __init__(self, directory: Path, window_ms: int, now_ms: int) -> None:
        """``window_ms``: the longest time that a request has to be known. Raises: StartupFailed."""
        self._new, self._old = directory / "nonces", directory / "nonces.old"
        self._window_ms = window_ms
        try:
            found = _read(self._old) | _read(self._new)
            self.known = {mac: until_ms for mac, until_ms in found.items() if until_ms >= now_ms}
            # Both at once, so that a crash in between leaves the old ones, which say the same.
            lines = b"".join(b"%d %b\n" % (until_ms, mac.encode()) for mac, until_ms in self.known.items())
            self._descriptor = _create(self._new.with_suffix(".next"))
            os.write(self._descriptor, lines)
            self._new.with_suffix(".next").replace(self._new)
            self._old.unlink(missing_ok=True)
        except OSError as error:
            raise StartupFailed(f"{error.filename or self._new}: cannot be used: {error.strerror}") from error
        self._begun_ms = now_ms

    def remember(self, mac: str, until_ms: int, now_ms: int) -> None:
        """Store it, so that a restart does not forget it as long as it matters.

        Raises: PubSubError 50003, if it cannot be written: then no token may be issued for it.
        """
        line = b"%d %b\n" % (until_ms, mac.encode())
        try:
            if not 0 <= now_ms - self._begun_ms < self._window_ms:
                self._begin_anew(now_ms)
            if os.write(self._descriptor, line) < len(line):
                raise OSError(0, "the disk is full")
        except OSError as error:
            raise PubSubError(f"the request could not be remembered: {error.strerror}", code=50003) from error

    def close(self) -> None:
        """Calling it again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _begin_anew(self, now_ms: int) -> None:
        self._new.replace(self._old)
        descriptor = _create(self._new)
        os.close(self._descriptor)
        self._descriptor, self._begun_ms = descriptor, now_ms


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _read(path: Path) -> dict[str, int]:
    """The complete lines: after a crash the last one may be torn, and its request got no token."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    matches = [match for match in map(_LINE.fullmatch, lines) if match is not None]
    return {match[2].decode(): int(match[1]) for match in matches}
