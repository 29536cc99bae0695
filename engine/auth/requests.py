"""Token requests: checked exactly, answered with a token.

    keyName, ttl, capability, clientId, timestamp, nonce    each and a newline, as received -> HMAC-SHA256 -> mac

There must be only one way to split the signed text into six parts. Otherwise a client that may choose its clientId
could choose where it begins or ends, and impersonate another. So clientId and nonce contain no newline, and a
capability neither begins nor ends with one.

A request is signed with the key's secret, or sent with the key itself (then it need not be signed). It counts once: its
mac is remembered while its timestamp is acceptable, across restarts, too. Source: Ably's specification of
TokenRequest."""

from __future__ import annotations

import contextlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import orjson

from engine import limits
from engine.auth.capability import Capability
from engine.auth.keys import LONGEST_TTL_MS, Key, Keyring, revoked
from engine.auth.tokens import TokenSeal, check_client_id, sign
from engine.errors import AuthError, BadRequest, LimitExceeded

DEFAULT_TTL_MS = 3_600_000
CLOCK_SKEW_MS = 120_000  # a request's timestamp may be off by so much
REMEMBERED_MS = 2 * CLOCK_SKEW_MS  # from two minutes behind our clock to two minutes ahead of it
SHORTEST_NONCE = 16
_NUMBER = re.compile(r"-?[0-9]{1,19}")


class TokenIssuer:
    """Answers token requests."""

    def __init__(
        self,
        keyring: Keyring,
        seal: TokenSeal,
        random: Callable[[int], bytes],
        *,
        known: Mapping[str, int] = MappingProxyType({}),
        remember: Callable[[str, int, int], None] = lambda mac, until_ms, now_ms: None,
    ) -> None:
        """
        Args:
            known: macs that were answered before, and until when in ms each has to be known.
            remember: is told each mac, its until and now, before its token is issued; an error that it raises is the
                answer.
        """
        self._keyring = keyring
        self._seal = seal
        self._random = random
        self._remember = remember
        # mac: when, in steady time, its timestamp ceases to be acceptable
        self._seen: OrderedDict[str, int] = OrderedDict(sorted(known.items(), key=lambda item: item[1]))

    def issue(
        self,
        key_name: str,
        body: object,
        authenticated: Key | None,
        now_ms: int,
        *,
        with_token: bool = False,
        steady_ms: int | None = None,
    ) -> dict[str, Any]:
        """The token's details.

        Args:
            key_name: from the path.
            authenticated: the key that came with the request, if one did (Basic authentication).
            with_token: it came with a token instead, which makes no token.
            steady_ms: by which used requests are forgotten, so that no setting of the clock does it; None: ``now_ms``.
        Raises: AuthError, BadRequest, LimitExceeded, with the protocol's codes.
        """
        if body is None:
            body = {}
        if not isinstance(body, dict):
            raise BadRequest("the body must be a map", code=40000)
        request = {name: value for name, value in body.items() if value is not None}
        if request.get("keyName", key_name) != key_name:
            raise AuthError("keyName: differs from the one in the path", code=40101)
        key = self._keyring.get(key_name)
        if "mac" in request:
            if request.get("capability") == "":  # signed like an absent one; ably-js sends it for undefined
                del request["capability"]
            self._check_mac(key, key_name, request, now_ms, steady_ms if steady_ms is not None else now_ms)
        elif authenticated is None and with_token:
            raise AuthError("a token cannot request a token: sign the request, or send it with the key", code=40162)
        elif authenticated is None:
            raise AuthError("the request is neither signed nor sent with the key", code=40101)
        elif key is None or authenticated.name != key_name:
            raise AuthError("the request was sent with another key", code=40101)
        elif "timestamp" in request:
            _check_timestamp(_number(request, "timestamp"), now_ms)
        assert key is not None
        ttl = self._ttl(request, key)
        client_id = check_client_id(request["clientId"]) if "clientId" in request else None
        text = key.capability.text
        if "capability" in request:
            text = key.capability.intersect(Capability.parse(request["capability"])).text
        token = self._seal.seal(key, now_ms, now_ms + ttl, client_id, text, self._random(8))
        details = {"token": token, "keyName": key_name, "issued": now_ms, "expires": now_ms + ttl, "capability": text}
        if client_id is not None:
            details["clientId"] = client_id
        return details

    def _ttl(self, request: Mapping[str, Any], key: Key) -> int:
        ttl = _number(request, "ttl", default=DEFAULT_TTL_MS)
        if not 0 < ttl <= LONGEST_TTL_MS:
            raise BadRequest(f"ttl: must be from 1 to {LONGEST_TTL_MS} ms, got {ttl}", code=40003)
        return min(ttl, key.longest_ttl_ms)

    def _check_mac(
        self, key: Key | None, key_name: str, request: Mapping[str, Any], now_ms: int, steady_ms: int
    ) -> None:
        timestamp = _number(request, "timestamp")
        nonce, mac = request.get("nonce"), request["mac"]
        if not isinstance(nonce, str) or len(nonce) < SHORTEST_NONCE or "\n" in nonce:
            reason = f"must be a string of at least {SHORTEST_NONCE} characters without newlines"
            raise BadRequest(f"nonce: {reason}", code=40000)
        if not isinstance(mac, str):
            raise BadRequest("mac: must be a string", code=40000)
        client_id = _as_signed(request, "clientId", code=40012)
        if "\n" in client_id:
            raise BadRequest("clientId: must not contain a newline in a signed request", code=40012)
        capability = _as_signed(request, "capability", code=40000)
        inside = capability.strip(" \t\r")
        if inside.startswith("\n") or inside.endswith("\n"):
            raise BadRequest("capability: must not begin or end with a newline in a signed request", code=40000)
        fields = (
            key_name,
            _as_signed(request, "ttl", code=40003),
            capability,
            client_id,
            str(request["timestamp"]),
            nonce,
        )
        expected = sign(key.secret if key is not None else "-" * 32, fields)
        if not hmac.compare_digest(expected.encode(), mac.encode("utf-8", "replace")) or key is None:
            raise AuthError("mac: does not match the request and the key", code=40101)
        if not key.enabled:
            raise revoked()
        _check_timestamp(timestamp, now_ms)
        while self._seen and next(iter(self._seen.values())) < steady_ms:
            self._seen.popitem(last=False)
        if mac in self._seen:
            raise AuthError("nonce: already used", code=40105)
        if len(self._seen) >= limits.NONCES:
            raise LimitExceeded("too many token requests within four minutes", code=42910)
        self._remember(mac, steady_ms + REMEMBERED_MS, steady_ms)
        self._seen[mac] = steady_ms + REMEMBERED_MS  # in order of arrival, so in order of expiry


def _check_timestamp(timestamp: int, now_ms: int) -> None:
    if abs(now_ms - timestamp) > CLOCK_SKEW_MS:
        raise AuthError("timestamp: more than two minutes from the server's clock", code=40104)


def _as_signed(request: Mapping[str, Any], field: str, *, code: int) -> str:
    """Its representation in the signed text. Raises: BadRequest, for a value that nobody can have signed."""
    value = request.get(field, "")
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    if field == "capability" and isinstance(value, dict):
        with contextlib.suppress(TypeError):  # it is too deep, or has keys that are no text
            return orjson.dumps(value).decode()
    raise BadRequest(f"{field}: has a type that is not allowed in a signed request", code=code)


def _number(request: Mapping[str, Any], field: str, default: int | None = None) -> int:
    value = request.get(field, default)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f"{field}: must be a number of milliseconds", code=40003 if field == "ttl" else 40000)
    return value
