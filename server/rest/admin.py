"""``GET /health``: the health of the server, for load balancers and people.

ok        200   the server can keep every promise
degraded  503   ``reasons`` say which promises it cannot keep: publishes are refused, or reads fail"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.http.reply import Reply


@dataclass(frozen=True, slots=True)
class Health:
    """A snapshot; ``durability`` is the class that channels have unless their namespace says otherwise."""

    version: str
    uptime_seconds: float
    durability: str
    reasons: tuple[str, ...] = ()
    details: Mapping[str, object] = field(default_factory=dict)  # further counting, plain values

    @property
    def status(self) -> str:
        return "degraded" if self.reasons else "ok"


def health_reply(health: Health) -> Reply:
    """503 takes a server out of rotation; the reply contains no secrets, because anybody can get it."""
    value = {
        "status": health.status,
        "reasons": list(health.reasons),
        "version": health.version,
        "uptimeSeconds": round(health.uptime_seconds, 3),
        "durability": health.durability,
        **health.details,
    }
    return Reply(503 if health.reasons else 200, value, [("Cache-Control", "no-store")])
