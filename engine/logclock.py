"""The clock of one log: it gives out serials, and its timeline remembers when.

    serials    carry the wall clock's milliseconds, and only grow
    timeline   gets a mark whenever they no longer pass as steady time does: the wall clock was set, or they creep

A process reads its clocks in one place (engine/steady.py), and all of its logs follow that reading."""

from __future__ import annotations

from engine.timeline import Mark, Timeline
from ext.text.serial import SerialClock, last_serial_before, serial_ms

AHEAD_MS = 1_000  # so far serials may run ahead of what the last mark says: they are taken for younger by it
BEHIND_MS = 20  # and so far behind it: for older, so this is what two readings of clocks may be apart


class LogClock:
    """See above. ``timeline`` and ``serials`` are those of the log."""

    __slots__ = ("serials", "step_ms", "timeline")

    def __init__(self, timeline: Timeline, serials: SerialClock, *, step_ms: int) -> None:
        """
        Args:
            serials: restored: above all that were given out before.
            step_ms: of steady time between two marks while serials creep.
        """
        self.timeline = timeline
        self.serials = serials
        self.step_ms = step_ms
        if not timeline.marks[-1].paced:  # the serials below it have been left out, which no journal knows
            serials.restore(last_serial_before(timeline.marks[-1].serial_ms))

    @property
    def newest_ms(self) -> int:
        """The steady time before which its newest serial was not given out."""
        return self.timeline.none_before(serial_ms(self.serials.last))

    def ahead_ms(self, wall_ms: int) -> int:
        """How far serials are ahead of the wall clock, because that was set back."""
        return max(0, serial_ms(self.serials.last) - wall_ms)

    def follow(self, wall_ms: int, steady_ms: int) -> None:
        """Serials are made of this wall time from now on, which is this steady time."""
        mark = self.timeline.marks[-1]
        since_mark_ms = wall_ms - mark.serial_ms
        drift_ms = since_mark_ms - steady_ms + mark.steady_ms
        if not mark.paced or since_mark_ms < 0 or not -BEHIND_MS <= drift_ms <= AHEAD_MS:
            self._mark(mark, wall_ms, steady_ms)

    def _mark(self, mark: Mark, wall_ms: int, steady_ms: int) -> None:
        """The last mark no longer says how serials go on."""
        last_ms = serial_ms(self.serials.last)
        if wall_ms > last_ms:
            self.timeline.add(Mark(wall_ms, steady_ms, True))
        elif mark.paced or (last_ms >= mark.serial_ms and steady_ms - mark.steady_ms >= self.step_ms):
            # A step is a whole millisecond, so that buckets can end there. Without it, all that comes until the wall
            # clock has caught up would be in one, and none of it would ever be old enough.
            self.serials.end_millisecond()
            self.timeline.add(Mark(last_ms + 1, steady_ms, False))
