"""What the server tells its operator on standard error: lines for people, or an object a line for programs.

    text    2026-11-30 12:00:00,123 INFO unbroken: drained in 0.1 s
    json    {"ts":"2026-11-30T12:00:00.123Z","level":"info","logger":"unbroken","message":"drained in 0.1 s",
             "event":"drain_end","seconds":0.1,"left":0}

What has an ``event`` is told once for each time that it happens, at INFO or worse, with its facts as fields; the README
lists them. One event is one line: what clients sent can't begin another. Secrets are in none."""

from __future__ import annotations

import logging
import sys
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from engine import limits
from engine.limits import Limits
from engine.settings import Namespace, Settings
from server.heap import machine_bytes

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure(settings: Settings) -> None:
    """Of the whole process; whoever has configured logging before has his way."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter(TEXT))
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper())


def facts(event: str, **named: object) -> dict[str, dict[str, object]]:
    """For ``extra`` of a line: what programs should not have to read out of its words."""
    return {"facts": {"event": event, **named}}


class TextFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _sound(record.getMessage()),
        }
        told |= getattr(record, "facts", {})
        if record.exc_info:
            told["exception"] = _sound(self.formatException(record.exc_info))
        return orjson.dumps(told, default=str).decode()


def _sound(text: str) -> str:
    """Without halves of surrogate pairs, which are no Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def differing(settings: Settings) -> dict[str, object]:
    """The settings in force that are not the defaults, by their names in the configuration. Of keys, how many."""
    usual = Settings().within(machine_bytes() or limits.MEMORY_UNKNOWN)
    apart = (
        "host",
        "port",
        "keys",
        "limits",
        "namespaces",
        "quotas",
        "app_quotas",
    )  # told in another form, or elsewhere
    found: dict[str, object] = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in _others(settings, usual).items()
        if name not in apart
    }
    found |= {f"limits.{name}": value for name, value in _others(settings.limits, usual.limits).items()}
    for scope, quota in settings.quotas.items():
        found |= {f"limits.{scope}.{name}": value for name, value in quota.given.items()}
    for app_id, quota in settings.app_quotas.items():
        found |= {f"apps.{app_id}.limits.{name}": value for name, value in quota.given.items()}
    for space in settings.namespaces.values():
        options = _others(space, Namespace(space.id))
        options.pop("quota", None)
        options |= {f"limits.{name}": value for name, value in space.quota.given.items()}
        found |= {f"namespaces.{space.id}.{name}": value for name, value in options.items()}
    if settings.keys:
        found["keys"] = len(settings.keys)
    return found


def _others(given: Settings | Limits | Namespace, usual: Settings | Limits | Namespace) -> dict[str, Any]:
    values = {known.name: getattr(given, known.name) for known in fields(given)}
    return {name: value for name, value in values.items() if value != getattr(usual, name)}
