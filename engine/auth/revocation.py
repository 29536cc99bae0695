"""Revocations: tokens that end before they expire.

    key name -> (kind, value) -> issued before, applies at      ms; concerns those tokens of this key
                 client         that were issued to this clientId, or are used with it
                 key            that have this x-ably-revocation-key
                 channel        whose capability names exactly this resource
                 all            all of them; an operator revokes them for the whole server, no request can

A token in a JWT of another key obeys the revocations of both keys, each by the time of issue with that key.

A revocable token lives an hour at most, so a revocation is obsolete after that time. Of one target's revocations only
those are kept that no other covers: one covers those that concern no younger tokens and apply no sooner.

A JWT says in whole seconds when it was issued (unless its issuer writes fractions). A JWT of the same second as a
revocation may be older than it, and so counts as revoked. A refusal says when a new token of the kind is valid
(``again_ms``), so that no client is told earlier: docs/decisions/0025.

Source: Ably's token revocation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine import limits
from engine.auth.keys import LONGEST_REVOCABLE_TTL_MS
from engine.auth.tokens import Identity
from engine.errors import AuthError, BadRequest, LimitExceeded

KINDS = {"clientId": "client", "revocationKey": "key", "channel": "channel"}
"""As targets spell them, and as they are kept."""
ALL_TOKENS = ("all", "")
"""Kind and value of what concerns every token of a key."""


SECOND_MS = 1000


class TokenRevoked(AuthError):
    """``again_ms``: a client that is told then, and requests a token of the same kind at once, gets a valid one."""

    code = 40141

    def __init__(self, again_ms: int) -> None:
        super().__init__("token: revoked")
        self.again_ms = again_ms


@dataclass(frozen=True, slots=True)
class Revocation:
    """A revocation, as stored. Times are in ms."""

    key_name: str
    kind: str
    value: str
    issued_before: int
    applies_at: int

    def covers(self, other: Revocation) -> bool:
        """Does it include everything that another one of the same target does?"""
        return self.issued_before >= other.issued_before and self.applies_at <= other.applies_at


def parse_target(text: str) -> tuple[str, str]:
    """Kind and value. Raises: BadRequest 40000."""
    name, colon, value = text.partition(":")
    if not colon or name not in KINDS:
        raise BadRequest(f"targets: {text[:40]!a} must begin with clientId:, revocationKey: or channel:", code=40000)
    if not 0 < len(value.encode("utf-8", "replace")) <= limits.REVOCATION_TARGET_BYTES:
        most = limits.REVOCATION_TARGET_BYTES
        raise BadRequest(f"targets: {text[:40]!a}: must have 1 to {most} bytes after the colon", code=40000)
    return KINDS[name], value


class Revocations:
    """All revocations that still matter."""

    def __init__(self, entries: Iterable[Revocation] = ()) -> None:
        self._found: dict[str, dict[tuple[str, str], list[Revocation]]] = {}
        self._count = 0
        self.version = 0  # grows with every one that is added
        for entry in entries:
            self._keep(entry)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Revocation]:
        for targets in self._found.values():
            for kept in targets.values():
                yield from kept

    def add(self, entry: Revocation, now_ms: int) -> None:
        """Raises: LimitExceeded 42910, if there are too many: none is forgotten before its time."""
        if self._count >= limits.REVOCATIONS:
            self.expire(now_ms)
            if self._count >= limits.REVOCATIONS:
                raise LimitExceeded(
                    f"{limits.REVOCATIONS} revocations are in force, the maximum; try again later", code=42910
                )
        self._keep(entry)

    def applies_at(self, identity: Identity) -> int | None:
        """The time at which its token becomes invalid, in ms; None: it is not revoked."""
        return min((entry.applies_at for entry, _ in self._about(identity)), default=None)

    def revoked(self, identity: Identity, now_ms: int) -> TokenRevoked:
        """The error for its token, which is revoked by now."""
        applied = [(entry, issued_ms) for entry, issued_ms in self._about(identity) if entry.applies_at <= now_ms]
        return TokenRevoked(max(good_from(entry.issued_before, issued_ms) for entry, issued_ms in applied))

    def check(self, identity: Identity, now_ms: int) -> None:
        """Raises: TokenRevoked 40141."""
        if self._found:
            applies_at = self.applies_at(identity)
            if applies_at is not None and applies_at <= now_ms:
                raise self.revoked(identity, now_ms)

    def expire(self, now_ms: int) -> None:
        """Forget those whose tokens have all expired by now."""
        for key_name, targets in list(self._found.items()):
            for target, kept in list(targets.items()):
                targets[target] = [entry for entry in kept if not outlived(entry, now_ms)]
                self._count -= len(kept) - len(targets[target])
                if not targets[target]:
                    del targets[target]
            if not targets:
                del self._found[key_name]

    def _about(self, identity: Identity) -> Iterator[tuple[Revocation, int]]:
        """The revocations that concern its token, each with the time of issue in ms that it applies to."""
        for key_name, issued_ms in identity.made_with:
            targets = self._found.get(key_name)
            if targets is None or issued_ms is None:
                continue
            for target in _targets(identity):
                for entry in targets.get(target, ()):
                    if issued_ms < entry.issued_before:
                        yield entry, issued_ms

    def _keep(self, entry: Revocation) -> None:
        self.version += 1
        targets = self._found.setdefault(entry.key_name, {})
        kept = targets.setdefault((entry.kind, entry.value), [])
        if any(other.covers(entry) for other in kept):
            return
        left = [other for other in kept if not entry.covers(other)]
        self._count += 1 + len(left) - len(kept)
        targets[entry.kind, entry.value] = [*left, entry]


def outlived(entry: Revocation, now_ms: int) -> bool:
    """Has every token that it concerns expired?"""
    return now_ms >= max(entry.issued_before + LONGEST_REVOCABLE_TTL_MS, entry.applies_at)


def good_from(issued_before: int, like_ms: int) -> int:
    """The first time, in ms, at which a token is issued that is not among those issued before, if it is like this one.

    A token that was issued at a full second comes from an issuer that counts in seconds. (It may also be one of this
    server by chance; then a few ms become up to a second.)
    """
    return -(-issued_before // SECOND_MS) * SECOND_MS if like_ms % SECOND_MS == 0 else issued_before


def _targets(identity: Identity) -> set[tuple[str, str]]:
    """All targets by which its token can be revoked."""
    found = {("channel", resource) for resource in identity.capability.names}
    found.add(ALL_TOKENS)
    for client_id in (identity.client_id, identity.token_client_id):
        if client_id is not None:
            found.add(("client", client_id))
    if identity.revocation_key is not None:
        found.add(("key", identity.revocation_key))
    return found
