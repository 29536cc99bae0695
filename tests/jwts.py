"""JSON Web Tokens as an application's own server makes them, by hand: nothing of the server's library is in it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from tests.harness import KEY


def segment(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def signed(header: Any, claims: Any, secret: str) -> str:
    """Three segments of whatever is given; bytes stay as they are."""
    parts = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in (header, claims)]
    text = ".".join(map(segment, parts))
    return f"{text}.{segment(hmac.digest(secret.encode(), text.encode(), hashlib.sha256))}"


def jwt(
    *, key: str = KEY, now_ms: int | None = None, ttl: float = 60, header: dict[str, Any] | None = None, **claims: Any
) -> str:
    """One for this key, good from now on for so many seconds.

    Claims are given by name: capability, client_id, revocation_key and token stand for those with x-ably-, the others
    for themselves; None leaves one out.
    """
    name, _, secret = key.partition(":")
    now = int(time.time() if now_ms is None else now_ms // 1000)
    own = {
        "capability": "x-ably-capability",
        "client_id": "x-ably-clientId",
        "revocation_key": "x-ably-revocation-key",
        "token": "x-ably-token",
    }
    given = {own.get(claim, claim): value for claim, value in claims.items()}
    body = {"iat": now, "exp": now + ttl, **given}
    return signed(
        {"typ": "JWT", "alg": "HS256", "kid": name, **(header or {})},
        {claim: value for claim, value in body.items() if value is not None},
        secret,
    )
