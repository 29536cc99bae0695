"""Where a rewind begins, plain and slow: the whole log in a list, gone over from its end."""

from __future__ import annotations

from collections.abc import Sequence

ModelEntry = tuple[int, int, bool]  # serial, messages, ephemeral


def begins(log: Sequence[ModelEntry], head: int, *, messages: int | None, floor: int) -> tuple[int, int]:
    """A cursor, and so many messages of the entry after it that the others are just as many as are wanted; or all that
    are newer than ``floor``."""
    cursor = head
    for serial, count, ephemeral in reversed(log):
        if ephemeral or serial > head:
            continue
        if serial <= floor or (messages is not None and messages <= 0):
            break
        cursor = serial - 1
        if messages is not None:
            messages -= count
    return cursor, -min(0, messages or 0)
