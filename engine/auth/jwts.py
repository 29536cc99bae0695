"""JSON Web Tokens: the holder of a key signs them with its secret, and the server sees them only when they are used.

    header   alg HS256, kid: the key's name, typ JWT; x-ably-token: a token of ours inside
    claims   iat, exp              seconds; exp - iat at most a day, an hour for a key whose tokens can be revoked
             nbf                   seconds; not before then
             x-ably-capability     JSON text or a map: the part of its key's capability that it has; by default all
             x-ably-clientId       as in a token; x-ably-revocation-key: a name by which it can be revoked
             x-ably-token          a token of this server, which then decides the identity and the capability
             ably.limits.publish.perAttachment.maxRate.<resource>      its publish rates: engine/auth/rates.py

    three segments: checked, claims and all       five, encrypted: only the token in its header counts

The library decodes the token and checks its signature, with a single algorithm. Time is an argument here, so this
module checks the claims. Source: RFC 7515, RFC 7519 and Ably's JWT authentication."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
from jwt import PyJWS
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidKeyError, InvalidTokenError

from engine import limits
from engine.auth.capability import Capability
from engine.auth.keys import Key, Keyring, revoked
from engine.auth.rates import parse_rates
from engine.auth.requests import CLOCK_SKEW_MS
from engine.auth.tokens import LONGEST_CREDENTIAL, Identity, TokenSeal, check_client_id
from engine.errors import AuthError, BadRequest

ALGORITHM = "HS256"
SEGMENTS, ENCRYPTED_SEGMENTS = 3, 5
LATEST_SECONDS = 1 << 40  # the latest time in a claim; a larger number must not overflow in a multiplication
MARK = "."


class _Hmac(HMACAlgorithm):
    """Accepts the secrets of keys as they are: an operator may have configured a short one."""

    def check_key_length(self, key: Any) -> str | None:
        return None


_VERIFIER = PyJWS(algorithms=[])
_VERIFIER.register_algorithm(ALGORITHM, _Hmac(HMACAlgorithm.SHA256))


def is_jwt(token: str) -> bool:
    """Does it look like a JWT? Tokens of this server have one dot."""
    return token.count(MARK) >= SEGMENTS - 1


def open_jwt(token: str, keyring: Keyring, seal: TokenSeal, now_ms: int) -> Identity:
    """The identity that it stands for.

    Raises: AuthError 40144 (malformed, wrongly signed, a claim missing or wrong), 40142 (expired), 40104 (of the
        future), 40400 with status 404 (of an unknown app), 40130 (unknown key), 40131 (key revoked), 40160 (may do
        nothing that its key may). BadRequest 40000 (capability, rates), 40012 (clientId). With a token inside also
        what that one is refused with.
    """
    if len(token) > LONGEST_CREDENTIAL or not token.isascii():
        raise invalid("it is too long, or contains characters that are invalid in a JWT")
    segments = token.count(MARK) + 1
    if segments == ENCRYPTED_SEGMENTS:
        return _open_encrypted(token, keyring, seal, now_ms)
    if segments != SEGMENTS:
        raise invalid("it must have three segments separated by dots")
    key = _key_of(_header(token), keyring)
    try:
        decoded = _VERIFIER.decode_complete(token, key.secret, algorithms=[ALGORITHM])
    except (InvalidTokenError, InvalidKeyError) as error:
        raise invalid(f"{error}; it must be signed with {ALGORITHM} and the secret of the key {key.name}") from None
    claims = _map(decoded["payload"], "its claims")
    issued_ms, expires_ms = _times(claims, key, now_ms)
    inner = _inner(decoded["header"], claims)
    if inner is not None:
        identity = _embedded(inner, key, expires_ms, keyring, seal, now_ms)
        return replace(
            identity,
            expires_ms=expires_ms,
            revocation_key=_revocation_key(claims),
            rates=parse_rates(claims),
            wrapped=(key.name, issued_ms) if key.name != identity.key_name else None,
        )
    capability = key.capability
    if claims.get("x-ably-capability") is not None:
        capability = capability.intersect(Capability.parse(claims["x-ably-capability"]))
    client_id = None
    if claims.get("x-ably-clientId") is not None:
        client_id = check_client_id(claims["x-ably-clientId"])
    wildcard = client_id == "*"
    return Identity(
        key.app_id,
        key.name,
        None if wildcard else client_id,
        wildcard,
        capability,
        expires_ms,
        issued_ms,
        _revocation_key(claims),
        client_id,
        parse_rates(claims),
    )


def key_in_jwt(token: str) -> str | None:
    """The name of the key in its header, proven or not; None: there is none."""
    try:
        name = _header(token[:LONGEST_CREDENTIAL]).get("kid")
    except AuthError:
        return None
    return name if isinstance(name, str) else None


def invalid(reason: str) -> AuthError:
    """The error, with the words that libraries look for."""
    return AuthError(f"token: invalid JWT format: {reason}", code=40144)


def _open_encrypted(token: str, keyring: Keyring, seal: TokenSeal, now_ms: int) -> Identity:
    """The server cannot read it, and need not: only the token in its header counts, which this server has issued."""
    inner = _inner(_header(token), {})
    if inner is None:
        raise invalid("an encrypted JWT must have x-ably-token in its header")
    return seal.open(inner, keyring, now_ms)


def _header(token: str) -> Mapping[str, Any]:
    """The header as written: nothing in it is proven yet."""
    segment = token.partition(MARK)[0]
    try:
        text = _base64url(segment)
    except ValueError:
        raise invalid("its header is not base64url") from None
    header = _map(text, "its header")
    if "crit" in header:
        raise invalid("crit: names an extension that this server does not support")
    return header


def _base64url(segment: str) -> bytes:
    """Raises: ValueError."""
    return base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)


def _map(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except ValueError:
        raise invalid(f"{what}: must be JSON") from None
    if not isinstance(value, dict):
        raise invalid(f"{what}: must be a map")
    return value


def _key_of(header: Mapping[str, Any], keyring: Keyring) -> Key:
    if header.get("alg") != ALGORITHM:
        raise invalid(f"alg: must be {ALGORITHM}")
    kind = header.get("typ")
    if kind is not None and not (isinstance(kind, str) and kind.upper() == "JWT"):
        raise invalid("typ: must be JWT")
    name = header.get("kid")
    if not isinstance(name, str) or not name:
        raise invalid("kid: must be the name of a key, appId.keyId")
    key = keyring.get(name)
    if key is None:
        if not keyring.has_app(name.partition(MARK)[0]):
            raise AuthError("token: the kid of the JWT names an unknown app", code=40400, status=404)
        raise AuthError("token: the kid of the JWT names an unknown key", code=40130)
    if not key.enabled:
        raise revoked()
    return key


def _times(claims: Mapping[str, Any], key: Key, now_ms: int) -> tuple[int, int]:
    """The times of issue and expiry, in ms."""
    issued_ms, expires_ms = _time(claims, "iat"), _time(claims, "exp")
    if issued_ms > now_ms + CLOCK_SKEW_MS:
        raise AuthError("token: iat is more than two minutes ahead of the server's clock", code=40104)
    if "nbf" in claims and _time(claims, "nbf") > now_ms + CLOCK_SKEW_MS:
        raise AuthError("token: nbf is more than two minutes ahead of the server's clock", code=40104)
    if now_ms >= expires_ms:
        raise AuthError("token: expired", code=40142)
    if expires_ms - issued_ms > key.longest_ttl_ms:
        raise invalid(f"exp: must be at most {key.longest_ttl_ms // 1000} seconds after iat")
    return issued_ms, expires_ms


def _time(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST_SECONDS:
        raise invalid(f"{name}: must be a time in seconds since 1970, as a number")
    return int(value * 1000)


def _inner(header: Mapping[str, Any], claims: Mapping[str, Any]) -> str | None:
    """The token in it, which may be in either place."""
    found = [part["x-ably-token"] for part in (header, claims) if part.get("x-ably-token") is not None]
    if not found:
        return None
    if not isinstance(found[0], str) or found[-1] != found[0]:
        raise invalid("x-ably-token: must be a token, equal in header and claims")
    if is_jwt(found[0]):
        raise invalid("x-ably-token: must be a token of this server, not another JWT")
    return found[0]


def _embedded(inner: str, key: Key, expires_ms: int, keyring: Keyring, seal: TokenSeal, now_ms: int) -> Identity:
    identity = seal.open(inner, keyring, now_ms)
    if identity.app_id != key.app_id:
        raise invalid("x-ably-token: belongs to another app than the JWT's key")
    assert identity.expires_ms is not None
    if expires_ms > identity.expires_ms:
        raise invalid("exp: is later than the expiry of the token in x-ably-token")
    return identity


def _revocation_key(claims: Mapping[str, Any]) -> str | None:
    value, most = claims.get("x-ably-revocation-key"), limits.REVOCATION_TARGET_BYTES
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value.encode("utf-8", "replace")) <= most:
        raise BadRequest(f"x-ably-revocation-key: must be a string of 1 to {most} bytes", code=40000)
    return value
