"""Revokes tokens (POST /keys/<keyName>/revokeTokens), and keeps revocations in a file across restarts.

    request --check--> Revocations --file, synced--> 201        one write for all requests that have gathered meanwhile
                           +--> live connections: cut off, then DISCONNECTED 40141; with a margin AUTH before

    revocations    in the data directory: a JSON array of [key name, kind, value, issued before, applies at]
                   damaged: set aside by --new-secret, which revokes all revocable tokens

Revocations are in force before they are written, and answered after: an answered one is never lost. A token issued in
the very millisecond of the request may be older than the request, so it counts as revoked. The answer waits until that
millisecond is over, so tokens issued after it are valid."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
import trio

from engine import limits
from engine.auth.keys import LONGEST_REVOCABLE_TTL_MS, Key
from engine.auth.revocation import ALL_TOKENS, Revocation, Revocations, outlived, parse_target
from engine.checked import Wrong, checked
from engine.errors import AuthError, BadRequest, PubSubError, StartupFailed
from server.datadir import DataDirectory, restoring

TURN_SECONDS = 0.002  # after it a millisecond is over, by the clock as the server reads it
MARGIN_MS = 30_000  # that allowReauthMargin gives clients to come with another token
_Row = tuple[str, Literal["client", "key", "channel", "all"], str, int, int]


class _Body(msgspec.Struct, frozen=True, rename="camel"):
    targets: Annotated[tuple[str, ...], msgspec.Meta(description="an array of strings such as clientId:alice")]
    issued_before: Annotated[int | float | None, msgspec.Meta(description="a time in ms")] = None
    allow_reauth_margin: bool | None = None


class Revoker:
    """Answers requests to revoke."""

    def __init__(
        self,
        revocations: Revocations,
        store: Callable[[bytes], None],
        take_effect: Callable[[list[Revocation]], Awaitable[None]],
        now_ms: Callable[[], int],
        cautious_ms: Callable[[], int] | None = None,
    ) -> None:
        """
        Args:
            cautious_ms: revocations that have expired by this time have expired, even if the clock was just set; None:
                ``now_ms``.
            store: writes the file, synced; called in a worker thread. Raises: OSError.
            take_effect: async; ends or warns the live connections that these are about.
        """
        self._revocations = revocations
        self._store = store
        self._take_effect = take_effect
        self._now_ms = now_ms
        self._cautious_ms = cautious_ms if cautious_ms is not None else now_ms
        self._writing = trio.Lock()
        self._changes = self._written = 0

    async def revoke(self, key_name: str, body: Mapping[str, Any], authenticated: Key | None) -> dict[str, Any]:
        """The answer, with a result for each target in their order.

        Args:
            key_name: from the path.
            authenticated: the key that came with the request; None: it came with a token.
        Raises: AuthError 40162 (a token), 40133 (another key), 40163 (its tokens can't be revoked). BadRequest 40000,
            40003. PubSubError 50003, when it could not be written: then it may be forgotten at the next start.
        If cancelled, it is in force, but may be forgotten at the next start.
        """
        if authenticated is None:
            raise AuthError("revoking tokens requires their key, by Basic authentication", code=40162)
        if authenticated.name != key_name:
            raise AuthError("tokens can be revoked only with the key that issued them", code=40133)
        if not authenticated.revocable_tokens:
            raise AuthError("the tokens of this key are not revocable", code=40163)
        now_ms = self._now_ms()
        asked, issued_before = _asked(body, now_ms)
        applies_at = now_ms + MARGIN_MS if asked.allow_reauth_margin else now_ms
        entries: list[Revocation] = []
        results: list[dict[str, Any]] = []
        for target in asked.targets:
            try:
                entry = Revocation(key_name, *parse_target(target), issued_before, applies_at)
                self._revocations.add(entry, self._cautious_ms())
            except PubSubError as error:
                results.append({"target": target, "error": error.info()})
                continue
            entries.append(entry)
            results.append({"target": target, "issuedBefore": issued_before, "appliesAt": applies_at})
        if entries:
            await self._take_effect(entries)
            await self._write()
            if self._now_ms() < issued_before:
                await trio.sleep(TURN_SECONDS)
        return {"successCount": len(entries), "failureCount": len(results) - len(entries), "results": results}

    async def _write(self) -> None:
        """Return when everything in force now has been written, by this task or another."""
        self._changes += 1
        wanted = self._changes
        async with self._writing:
            if self._written >= wanted:
                return
            covered = self._changes
            self._revocations.expire(self._cautious_ms())
            try:
                await trio.to_thread.run_sync(self._store, dump(self._revocations))
            except OSError as error:
                raise PubSubError(f"the revocation could not be stored: {error.strerror}", code=50003) from error
            self._written = covered


def dump(revocations: Iterable[Revocation]) -> bytes:
    return msgspec.json.encode([[e.key_name, e.kind, e.value, e.issued_before, e.applies_at] for e in revocations])


def begin(directory: DataDirectory, keys: Iterable[Key], now_ms: int) -> Revocations:
    """The revocations of the data directory; with a new secret, also one of all revocable tokens of these keys.

    Raises: StartupFailed, which says what to do.
    """
    file = directory.path / "revocations"
    try:
        try:
            found = read(directory.revocations(), now_ms)
        except ValueError as error:
            if not directory.has_new_secret:
                raise StartupFailed(f"{file}: is damaged: {error}; {restoring()}") from error
            directory.set_revocations_aside()
            found = Revocations()
        if directory.has_new_secret:
            for key in keys:
                if key.revocable_tokens:
                    found.add(Revocation(key.name, *ALL_TOKENS, now_ms + 1, now_ms), now_ms)
            directory.keep_revocations(dump(found))
    except OSError as error:
        raise StartupFailed(f"{error.filename or file}: cannot be used: {error.strerror}") from error
    return found


def read(content: bytes | None, now_ms: int) -> Revocations:
    """The revocations that still matter; None: there is no file. Raises: ValueError, if it is damaged."""
    rows = msgspec.json.decode(b"[]" if content is None else content, type=list[_Row])
    return Revocations(entry for entry in (Revocation(*row) for row in rows) if not outlived(entry, now_ms))


def _asked(body: Mapping[str, Any], now_ms: int) -> tuple[_Body, int]:
    """With the time in ms before which its tokens were issued. Raises: BadRequest."""
    try:
        asked = checked(body, _Body)
    except Wrong as error:
        raise BadRequest(str(error), code=40003 if error.where == "issuedBefore" else 40000) from None
    if not 1 <= len(asked.targets) <= limits.REVOCATION_TARGETS:
        raise BadRequest(f"targets: must be 1 to {limits.REVOCATION_TARGETS}, got {len(asked.targets)}", code=40003)
    before = asked.issued_before
    if before is None:
        return asked, now_ms + 1  # tokens issued in this millisecond count as issued before
    if before % 1 or not now_ms - LONGEST_REVOCABLE_TTL_MS <= before <= now_ms:
        raise BadRequest("issuedBefore: must be a time in ms, in the past by at most an hour", code=40003)
    return asked, int(before)
