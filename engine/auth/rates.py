"""The publish rates in a JWT's claims.

    ably.limits.publish.perAttachment.maxRate.<resource>: 0.5      messages a second, of one connection to one channel

A resource is written as in a capability. If several match, the one with the most segments other than ``*`` counts. A
rate may be less than one, so rates are counted in thousandths of a message. A publish over HTTP has no attachment, so
only the quotas apply to it. Source: Ably's claims for rate limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine import limits
from engine.auth.capability import ANY, EVERYTHING, Capability, Operation
from engine.errors import BadRequest, LimitExceeded
from ext.log.rate import Rate

CLAIM = "ably.limits.publish.perAttachment.maxRate."
WHOLE = 1000  # thousandths in a message
FASTEST = 1 << 30  # messages a second


class PublishRates:
    """The rates of one JWT."""

    __slots__ = ("_rates",)

    def __init__(self, rates: Mapping[str, int]) -> None:
        """``rates``: thousandths of messages a second, by resource."""
        ordered = sorted(rates.items(), key=lambda item: (_fixed(item[0]), len(item[0])), reverse=True)
        self._rates = [(Capability({resource: ANY}), rate) for resource, rate in ordered]

    def of(self, channel: str) -> int | None:
        """Thousandths of messages a second; None: there is no rate for this channel."""
        for resource, rate in self._rates:
            if resource.permits(channel, Operation.PUBLISH):
                return rate
        return None


class Pace:
    """The used part of one connection's rates. It stays when the connection gets other credentials."""

    __slots__ = ("_used",)

    def __init__(self) -> None:
        self._used: dict[str, Rate] = {}

    def rate(self, channel: str, thousandths: int, now_ms: int) -> Rate:
        """The rate to ``take`` from, ``WHOLE`` bytes for each message. Raises: LimitExceeded 42911."""
        used = self._used.get(channel)
        if used is None:
            if len(self._used) >= limits.REMEMBERED_NAMES:
                self._used = {name: rate for name, rate in self._used.items() if not rate.room(now_ms)}
            if len(self._used) >= limits.REMEMBERED_NAMES:
                raise LimitExceeded("the token's rates are exhausted on too many channels", code=42911)
            used = self._used[channel] = Rate(0, thousandths)
        else:
            used.limit(0, thousandths)
        if not used.room(now_ms):
            wait_ms = used.wait_ms(now_ms)
            reason = f"the token may publish {thousandths / WHOLE:g} messages a second to this channel"
            raise LimitExceeded(f"{reason}; try again in {wait_ms} ms", code=42911, retry_after_ms=wait_ms)
        return used


def parse_rates(claims: Mapping[str, Any]) -> PublishRates | None:
    """The rates; None: there are none. Raises: BadRequest 40000, naming the claim."""
    found: dict[str, int] = {}
    for claim, value in claims.items():
        if not claim.startswith(CLAIM):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 / WHOLE <= value <= FASTEST:
            raise BadRequest(f"{claim[:120]}: must be messages a second, from {1 / WHOLE} to {FASTEST}", code=40000)
        found[claim.removeprefix(CLAIM)] = round(value * WHOLE)
    if not found:
        return None
    Capability.parse({resource: list(ANY) for resource in found})  # each must be a resource, and they not too many
    return PublishRates(found)


def _fixed(resource: str) -> int:
    if resource == EVERYTHING:
        return -1
    return len([segment for segment in resource.split(":") if segment != "*"])
