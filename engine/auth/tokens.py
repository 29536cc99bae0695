"""Who is there: keys and tokens to an Identity, and what an identity may claim.

    key      appId.keyId:secret           -> the key's capability; any clientId may be asserted
    token    appId.<base64url of sealed>  -> what it was issued with

    sealed   msgpack [key name, issued ms, expires ms, clientId | nil, capability, nonce] | HMAC-SHA256 (32 bytes)

A token carries all that it says, under the server's secret: so it needs no look-up and outlives a restart. Deleting its
key ends it. Source: Ably's authentication, tokens and identity tables."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

import msgpack

from engine import limits
from engine.auth.capability import Capability
from engine.auth.keys import Key, Keyring
from engine.auth.sealing import derive_key
from engine.errors import AuthError, BadRequest

MAC_BYTES = 32
LONGEST_CREDENTIAL = 16 * 1024  # characters; a token with a large capability has some thousand


@dataclass(frozen=True, slots=True)
class Identity:
    """What a set of credentials stands for.

    ``client_id`` None and ``wildcard``: any may be asserted, message by message. None without it: anonymous.
    """

    app_id: str
    key_name: str
    client_id: str | None
    wildcard: bool
    capability: Capability
    expires_ms: int | None = None

    @property
    def told_client_id(self) -> str | None:
        """What CONNECTED says of it."""
        return "*" if self.wildcard else self.client_id


def check_client_id(client_id: object) -> str:
    """What can be the clientId of a connection or token; ``*``, for any, included. Raises: BadRequest 40012."""
    if not isinstance(client_id, str) or not client_id:
        raise BadRequest("clientId: must be a string, and not empty", code=40012)
    if len(client_id.encode("utf-8", "replace")) > limits.CLIENT_ID_BYTES:
        raise BadRequest(f"clientId: must have at most {limits.CLIENT_ID_BYTES} bytes", code=40012)
    return client_id


def check_message_client_id(identity: Identity, client_id: str | None) -> None:
    """May this identity publish as ``client_id``? Raises: BadRequest 40012."""
    if client_id is None:
        return
    if client_id in ("*", ""):
        raise BadRequest(f"clientId: {client_id!r} is no identity", code=40012)
    if not identity.wildcard and client_id != identity.client_id:
        raise BadRequest("clientId: the credentials do not permit this one", code=40012)


def with_client_id(identity: Identity, asserted: str | None) -> Identity:
    """The identity once the client has said who it is. Raises: AuthError 40102, BadRequest 40012."""
    if asserted is None or asserted == identity.client_id:
        return identity
    check_client_id(asserted)
    if not identity.wildcard:
        raise AuthError("clientId: it is not the one of the credentials", code=40102)
    if asserted == "*":
        return identity
    return Identity(
        identity.app_id, identity.key_name, asserted, False, identity.capability, identity.expires_ms
    )


class TokenSeal:
    """Makes and opens tokens, with a secret that only servers of this deployment have."""

    def __init__(self, secret: bytes) -> None:
        self._key = derive_key(secret, "token")

    def seal(
        self, key: Key, issued_ms: int, expires_ms: int, client_id: str | None, capability: str, nonce: bytes
    ) -> str:
        payload = msgpack.packb([key.name, issued_ms, expires_ms, client_id, capability, nonce])
        sealed = payload + hmac.digest(self._key, payload, "sha256")
        return f"{key.app_id}.{base64.urlsafe_b64encode(sealed).decode().rstrip('=')}"

    def open(self, token: str, keyring: Keyring, now_ms: int) -> Identity:
        """Raises: AuthError 40101 (none of ours, or its key is gone), 40142 (expired)."""
        unknown = AuthError("token: it is not known here", code=40101)
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
        key_name, _, expires_ms, client_id, capability, _ = msgpack.unpackb(payload)
        key = keyring.find(key_name)
        if key is None or key.app_id != app_id:
            raise AuthError("token: its key has been removed", code=40101)
        if now_ms >= expires_ms:
            raise AuthError("token: it has expired", code=40142)
        wildcard = client_id == "*"
        return Identity(
            app_id, key_name, None if wildcard else client_id, wildcard, Capability.parse(capability), expires_ms
        )


class Authenticator:
    """Credentials of any kind, from wherever a request carries them."""

    def __init__(self, keyring: Keyring, seal: TokenSeal) -> None:
        self.keyring = keyring
        self._seal = seal

    def authenticate(self, params: Mapping[str, str], authorization: str | None, now_ms: int) -> Identity:
        """Who sent it: a token before a key, the query before the header. Raises: AuthError."""
        token = params.get("access_token") or params.get("accessToken")
        if token:
            return self.token(token, now_ms)
        scheme, _, value = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            return self._bearer(value.strip(), now_ms)
        if params.get("key"):
            return self.basic(params["key"])
        if scheme.lower() == "basic":
            return self.basic(_decoded(value.strip()) or "")
        if scheme:
            raise AuthError("Authorization: must be Basic or Bearer", code=40101)
        raise AuthError("there are no credentials: neither a key nor a token", code=40101)

    def basic(self, text: str) -> Identity:
        key = self.keyring.authenticate(text)
        return Identity(key.app_id, key.name, None, True, key.capability)

    def basic_key(self, params: Mapping[str, str], authorization: str | None) -> Key | None:
        """The key of a request with Basic authentication; None if it has another kind, or none. Raises: AuthError."""
        if params.get("key"):
            return self.keyring.authenticate(params["key"])
        scheme, _, value = (authorization or "").partition(" ")
        return self.keyring.authenticate(_decoded(value.strip()) or "") if scheme.lower() == "basic" else None

    def token(self, token: str, now_ms: int) -> Identity:
        if token.count(".") >= 2:
            raise AuthError("token: invalid JWT format, or a JWT, which this server does not take", code=40144)
        return self._seal.open(token, self.keyring, now_ms)

    def _bearer(self, value: str, now_ms: int) -> Identity:
        """SDKs send base64 of the token, people the token itself."""
        decoded = _decoded(value)
        if decoded is not None and "." in decoded:
            return self.token(decoded, now_ms)
        return self.token(value, now_ms)


def _decoded(text: str) -> str | None:
    try:
        decoded = base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return decoded if decoded.isprintable() else None


def sign(secret: str, fields: tuple[str, ...]) -> str:
    """The mac of a token request: over its six values, each followed by a newline."""
    text = "".join(f"{value}\n" for value in fields)
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), sha256().name)).decode()
