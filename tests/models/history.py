"""History, plain and slow: all messages of a channel in one list, cut by definition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelMessage:
    serial: int
    index: int
    id: str

    @property
    def ms(self) -> int:
        return self.serial >> 16


def history(
    messages: Iterable[ModelMessage],
    *,
    start: int,
    end: int,
    backwards: bool,
    until: int | None = None,
) -> list[str]:
    """The ids of everything from ``start`` to ``end`` (ms, inclusive), at or before the serial ``until``."""
    found = [message for message in messages if start <= message.ms <= end]
    if until is not None:
        found = [message for message in found if message.serial <= until]
    found.sort(key=lambda message: (message.serial, message.index), reverse=backwards)
    return [message.id for message in found]
