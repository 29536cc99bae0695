"""Identities, and the tokens that carry them.

    token    appId.<base64url of sealed>  -> the identity that it was issued with

    sealed   msgpack [key name, issued ms, expires ms, clientId | nil, capability, nonce, mark] | HMAC-SHA256 (32 bytes)
    mark     of the key's secret, 8 bytes: a keyed hash

A token carries all its data, sealed with the server's secret, so it needs no look-up and outlives a restart. Deleting
its key ends it. So does changing the key's secret, as operators do when the old one has leaked. If the key's tokens
have become revocable since, the token ends after an hour, like revocations.

Source: Ably's authentication, tokens and identity tables."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, replace
from hashlib import sha256

import msgpack

from engine import limits
from engine.auth.capability import Capability
from engine.auth.keys import Key, Keyring, revoked
from engine.auth.rates import PublishRates
from engine.auth.sealing import derive_key
from engine.errors import AuthError, BadRequest
from ext.log.author import Author

MAC_BYTES = 32
MARK_BYTES = 8
LONGEST_CREDENTIAL = 16 * 1024  # characters; a token with a large capability has some thousand


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity that a set of credentials stands for.

    ``client_id`` None and ``wildcard``: any may be asserted, message by message. None without it: anonymous.
    ``issued_ms``: of the token; None: it is the key itself (Basic authentication). ``token_client_id``: whom the token
    was issued to, ``*`` included; ``client_id`` may be another then. ``rates``: at which it may publish, if it says so.
    ``wrapped``: the key of the JWT in which the token came, and when in ms that was issued; None: it came alone, or in
    one of its own key.
    """

    app_id: str
    key_name: str
    client_id: str | None
    wildcard: bool
    capability: Capability
    expires_ms: int | None = None
    issued_ms: int | None = None
    revocation_key: str | None = None
    token_client_id: str | None = None
    rates: PublishRates | None = None
    wrapped: tuple[str, int] | None = None

    @property
    def made_with(self) -> tuple[tuple[str, int | None], ...]:
        """The keys that its validity depends on, and for each the time of issue in ms."""
        own = (self.key_name, self.issued_ms)
        return (own,) if self.wrapped is None else (own, self.wrapped)

    @property
    def told_client_id(self) -> str | None:
        """The clientId in CONNECTED."""
        return "*" if self.wildcard else self.client_id

    def author(self, connection_id: str | None = None, *, inherited: bool = False) -> Author:
        """In whose name it publishes, over this connection (``inherited``: of an earlier life) or over none."""
        client_id = None if self.wildcard else self.client_id
        return Author(connection_id, client_id, wildcard=self.wildcard, inherited=inherited)


def check_client_id(client_id: object) -> str:
    """Check the clientId of a connection or token; ``*``, for any, is valid. Raises: BadRequest 40012."""
    if not isinstance(client_id, str) or not client_id:
        raise BadRequest("clientId: must be a non-empty string", code=40012)
    if len(client_id.encode("utf-8", "replace")) > limits.CLIENT_ID_BYTES:
        raise BadRequest(f"clientId: must have at most {limits.CLIENT_ID_BYTES} bytes", code=40012)
    return client_id


def with_client_id(identity: Identity, asserted: str | None) -> Identity:
    """The identity once the client has asserted its clientId. Raises: AuthError 40102, BadRequest 40012."""
    if asserted is None or asserted == identity.client_id:
        return identity
    check_client_id(asserted)
    if not identity.wildcard:
        raise AuthError("clientId: differs from that of the credentials", code=40102)
    if asserted == "*":
        return identity
    return replace(identity, client_id=asserted, wildcard=False)


class TokenSeal:
    """Makes and opens tokens, with a secret that only servers of this deployment have."""

    def __init__(self, secret: bytes) -> None:
        self._key = derive_key(secret, "token with a mark")

    def seal(
        self, key: Key, issued_ms: int, expires_ms: int, client_id: str | None, capability: str, nonce: bytes
    ) -> str:
        payload = msgpack.packb([key.name, issued_ms, expires_ms, client_id, capability, nonce, self._mark(key)])
        sealed = payload + hmac.digest(self._key, payload, "sha256")
        return f"{key.app_id}.{base64.urlsafe_b64encode(sealed).decode().rstrip('=')}"

    def open(self, token: str, keyring: Keyring, now_ms: int) -> Identity:
        """Raises: AuthError 40101 (not ours, or its key is gone), 40131 (its key is revoked), 40142 (expired)."""
        unknown = AuthError("token: unknown", code=40101)
        app_id, dot, text = token.partition(".")
        if not dot or len(token) > LONGEST_CREDENTIAL:
            raise unknown
        try:
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise unknown from None
        payload, mac = sealed[:-MAC_BYTES], sealed[-MAC_BYTES:]
        if not hmac.compare_digest(hmac.digest(self._key, payload, "sha256"), mac):
            raise unknown
        key_name, issued_ms, expires_ms, client_id, capability, _, mark = msgpack.unpackb(payload)
        key = keyring.get(key_name)
        if key is None or key.app_id != app_id or self._mark(key) != mark:
            raise AuthError("token: its key was removed", code=40101)
        if not key.enabled:
            raise revoked()
        expires_ms = min(expires_ms, issued_ms + key.longest_ttl_ms)
        if now_ms >= expires_ms:
            raise AuthError("token: expired", code=40142)
        wildcard = client_id == "*"
        return Identity(
            app_id,
            key_name,
            None if wildcard else client_id,
            wildcard,
            Capability.parse(capability),
            expires_ms,
            issued_ms,
            token_client_id=client_id,
        )

    def _mark(self, key: Key) -> bytes:
        return hmac.digest(self._key, b"mark:" + key.secret.encode(), "sha256")[:MARK_BYTES]


def key_in_token(token: str) -> str | None:
    """The name of the key that it claims to be made with, proven or not; None: it names none."""
    try:
        sealed = base64.b64decode(token.partition(".")[2] + "==", altchars=b"-_")
        unpacker = msgpack.Unpacker()
        unpacker.feed(sealed[:-MAC_BYTES][:LONGEST_CREDENTIAL])
        unpacker.read_array_header()
        name = unpacker.unpack()
    except (ValueError, msgpack.UnpackException):  # out of data is one of them
        return None
    return name if isinstance(name, str) else None


def sign(secret: str, fields: tuple[str, ...]) -> str:
    """The mac of a token request: over its six values, each followed by a newline."""
    text = "".join(f"{value}\n" for value in fields)
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), sha256().name)).decode()
