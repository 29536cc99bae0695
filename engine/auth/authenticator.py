"""Finds the credentials of a request, and turns them into an Identity.

query    access_token, accessToken    a token        before    key           a key
header   Authorization: Bearer        a token, or base64 of it
         Authorization: Basic         base64 of a key

key      appId.keyId:secret    -> the key's capability; any clientId may be asserted
token    one dot               -> engine.auth.tokens         two dots or more: a JWT -> engine.auth.jwts

White space around either is ignored: it comes from a file's last line, or from copying."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from engine import limits
from engine.auth.jwts import is_jwt, key_in_jwt, open_jwt
from engine.auth.keys import Key, Keyring
from engine.auth.tokens import Identity, TokenSeal, key_in_token
from engine.errors import AuthError

_PLAIN = str.maketrans("-_", "+/")


class Authenticator:
    """Turns credentials of any kind into an Identity."""

    def __init__(self, keyring: Keyring, seal: TokenSeal) -> None:
        self.keyring = keyring
        self._seal = seal
        self._of_keys: dict[str, tuple[Key, Identity]] = {}

    def authenticate(self, params: Mapping[str, str], authorization: str | None, now_ms: int) -> Identity:
        """The sender's identity: a token before a key, the query before the header. Raises: AuthError."""
        token = params.get("access_token") or params.get("accessToken")
        if token:
            return self.token(token, now_ms)
        scheme, value = _split(authorization)
        if scheme == "bearer":
            return self.token(_token_in(value), now_ms)
        if params.get("key"):
            return self.basic(params["key"])
        if scheme == "basic":
            return self.basic(_decoded(value) or "")
        if scheme:
            raise AuthError("Authorization: must be Basic or Bearer", code=40101)
        raise AuthError("credentials: missing; send a key or a token", code=40101)

    def basic(self, text: str) -> Identity:
        """One object for all clients with the same key. Raises: AuthError."""
        key = self.keyring.authenticate(text.strip())
        known = self._of_keys.get(key.name)
        if known is None or known[0] is not key:
            if len(self._of_keys) >= limits.IDENTITIES_SHARED:
                self._of_keys.clear()
            known = self._of_keys[key.name] = (key, Identity(key.app_id, key.name, None, True, key.capability))
        return known[1]

    def basic_key(self, params: Mapping[str, str], authorization: str | None) -> Key | None:
        """The key of a request with Basic authentication; None if it has another kind, or none. Raises: AuthError."""
        if params.get("key"):
            return self.keyring.authenticate(params["key"].strip())
        scheme, value = _split(authorization)
        return self.keyring.authenticate(_decoded(value) or "") if scheme == "basic" else None

    def key_named(self, params: Mapping[str, str], authorization: str | None) -> str | None:
        """The name of the key that these credentials name, proven or not; None: there is no such key."""
        token = params.get("access_token") or params.get("accessToken")
        scheme, value = _split(authorization)
        if not token and scheme == "bearer":
            token = _token_in(value)
        if token:
            token = token.strip()
            name = key_in_jwt(token) if is_jwt(token) else key_in_token(token)
        else:
            text = params.get("key") or (_decoded(value) if scheme == "basic" else None)
            name = text.strip().partition(":")[0] if text else None
        return name if name is not None and self.keyring.get(name) is not None else None

    def token(self, token: str, now_ms: int) -> Identity:
        """Raises: AuthError, BadRequest, as ``TokenSeal.open`` and ``open_jwt`` do."""
        token = token.strip()
        if is_jwt(token):
            return open_jwt(token, self.keyring, self._seal, now_ms)
        return self._seal.open(token, self.keyring, now_ms)


def _token_in(value: str) -> str:
    """The token of a Bearer header: SDKs send its base64, people the token itself."""
    decoded = _decoded(value)
    return decoded if decoded is not None and "." in decoded else value


def _split(authorization: str | None) -> tuple[str, str]:
    """Its scheme, in lower case, and the rest."""
    scheme, *rest = (authorization or "").split(None, 1) or [""]
    return scheme.lower(), "".join(rest).strip()


def _decoded(text: str) -> str | None:
    """Decode base64 of either alphabet, padded or not; None, if it is invalid, or not printable."""
    text = text.translate(_PLAIN)
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode().strip()
    except (binascii.Error, ValueError):
        return None
    return decoded if decoded.isprintable() else None
