"""Derives a key for each purpose from the server's secret.

    secret (32 random bytes, in the data directory) --HMAC-SHA256, purpose--> tokens | connection keys | message ids

So a seal for one purpose proves nothing for another, and an operator has only one file to protect."""

from __future__ import annotations

import hmac

SECRET_BYTES = 32


def derive_key(secret: bytes, purpose: str) -> bytes:
    """32 bytes for this purpose. Raises: ValueError, if the secret is too short."""
    if len(secret) < SECRET_BYTES:
        raise ValueError(f"the secret must have at least {SECRET_BYTES} bytes, got {len(secret)}")
    return hmac.digest(secret, b"unbroken: " + purpose.encode("ascii"), "sha256")
