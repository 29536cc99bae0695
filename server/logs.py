"""The server's log on standard error: lines for people, or one JSON object per line for programs.

    text    2026-11-30 12:00:00,123 INFO unbroken: drained in 0.1 s
    json    {"ts":"2026-11-30T12:00:00.123Z","level":"info","logger":"unbroken","message":"drained in 0.1 s",
             "event":"drain_end","seconds":0.1,"left":0}

An ``event`` is logged once each time it happens, at INFO or above, with its facts as fields; the README lists the
events. One event is one line: text sent by clients cannot begin another. No line contains a secret."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson

from engine.settings import Settings

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure(settings: Settings) -> None:
    """Configure logging of the whole process, unless it has been configured before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter(TEXT))
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper())


def facts(event: str, **named: object) -> dict[str, dict[str, object]]:
    """For ``extra`` of a log call: facts that programs should not have to parse from the text."""
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
    """The text without halves of surrogate pairs, which are invalid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()
