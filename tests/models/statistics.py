"""Statistics, plainly right and slow: a list of all that was ever counted, gone through for every question."""

from __future__ import annotations

from datetime import UTC, datetime

FORMATS = {"minute": "%Y-%m-%d:%H:%M", "hour": "%Y-%m-%d:%H", "day": "%Y-%m-%d", "month": "%Y-%m"}


class ModelStatistics:
    def __init__(self) -> None:
        self.counted: list[tuple[str, int, str]] = []  # app, ms, name

    def count(self, app_id: str, name: str, now_ms: int) -> None:
        self.counted.append((app_id, now_ms, name))

    def intervals(self, app_id: str, unit: str) -> dict[str, dict[str, int]]:
        """By interval id: how often each name was counted."""
        found: dict[str, dict[str, int]] = {}
        for app, at_ms, name in self.counted:
            if app == app_id:
                interval = found.setdefault(datetime.fromtimestamp(at_ms / 1000, UTC).strftime(FORMATS[unit]), {})
                interval[name] = interval.get(name, 0) + 1
        return found
