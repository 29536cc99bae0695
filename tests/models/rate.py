"""The plain twin of ext.log.rate, in fractions: nothing is ever rounded."""

from __future__ import annotations

from fractions import Fraction


class PlainRate:
    """Messages and bytes in a second; 0 allows everything."""

    def __init__(self, messages: int, data: int) -> None:
        self.allowed = (messages, data)
        self.used = [Fraction(0), Fraction(0)]
        self.at_ms = 0

    def _pass_time(self, now_ms: int) -> None:
        elapsed = max(0, now_ms - self.at_ms)  # a clock that is set back gives nothing
        self.used = [
            max(Fraction(0), used - Fraction(elapsed * allowed, 1000))
            for used, allowed in zip(self.used, self.allowed, strict=True)
        ]
        self.at_ms = now_ms

    def room(self, now_ms: int) -> bool:
        self._pass_time(now_ms)
        return all(not allowed or used < allowed for used, allowed in zip(self.used, self.allowed, strict=True))

    def take(self, now_ms: int, count: int, size: int) -> None:
        self._pass_time(now_ms)
        added = (count if self.allowed[0] else 0, size if self.allowed[1] else 0)
        self.used = [used + more for used, more in zip(self.used, added, strict=True)]
