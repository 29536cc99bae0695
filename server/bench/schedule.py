"""The schedule: the time of each message is known beforehand, so a slow server does not get fewer messages.

This avoids coordinated omission.

due(n)    the time, in seconds after the beginning, at which message n is due: the inverse of the sum of the rate"""

from __future__ import annotations

import math

from server.bench.options import Ramp


class Schedule:
    """A rate that goes evenly from one number to another, then stays."""

    def __init__(self, ramp: Ramp) -> None:
        self._begin, self._end, self._seconds = ramp.begin, ramp.end, ramp.seconds
        self._ramped = (ramp.begin + ramp.end) / 2 * ramp.seconds  # messages until it stays

    def count(self, seconds: float) -> int:
        """How many messages are due within so many seconds from the beginning, the first one at once."""
        if seconds < 0:
            return 0
        if seconds >= self._seconds:
            due = self._ramped + (seconds - self._seconds) * self._end
        else:
            due = self._begin * seconds + (self._end - self._begin) * seconds * seconds / (2 * self._seconds)
        return int(due) + 1

    def due(self, number: int) -> float:
        """When message ``number`` (from 0) is due, in seconds after the beginning."""
        if number >= self._ramped:
            return self._seconds + (number - self._ramped) / self._end
        if number == 0:
            return 0.0
        slope = (self._end - self._begin) / self._seconds
        # Of the two forms of the root the one without a difference: of nearly equal numbers it would keep no digit.
        return 2 * number / (self._begin + math.sqrt(max(self._begin * self._begin + 2 * slope * number, 0.0)))
