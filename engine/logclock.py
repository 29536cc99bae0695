"""The clock of one log: issues serials, and records their times in its timeline.

    serials    carry the wall clock's milliseconds, and only grow
    timeline   gets a mark when serials stop following steady time: the wall clock was set, or they creep

A process reads its clocks in one place (engine/steady.py), and all its logs follow that reading."""

from __future__ import annotations

from engine.timeline import Mark, Timeline
from ext.text.serial import SerialClock, last_serial_before, serial_ms

AHEAD_MS = 1_000  # serials may be this far ahead of the last mark: they then count as younger
BEHIND_MS = 20  # and this far behind it, which counts as older: the tolerance between two readings of clocks


class LogClock:
    """See above. ``timeline`` and ``serials`` are those of the log."""

    __slots__ = ("serials", "step_ms", "timeline")

    def __init__(self, timeline: Timeline, serials: SerialClock, *, step_ms: int) -> None:
        """
        Args:
            serials: restored, above all serials issued before.
            step_ms: steady time between two marks while serials creep.
        """
        self.timeline = timeline
        self.serials = serials
        self.step_ms = step_ms
        if not timeline.marks[-1].paced:  # a serial below the mark may have been issued without reaching a journal
            serials.restore(last_serial_before(timeline.marks[-1].serial_ms))

    @property
    def newest_ms(self) -> int:
        """Its newest serial was issued at this steady time or later."""
        return self.timeline.none_before(serial_ms(self.serials.last))

    def ahead_ms(self, wall_ms: int) -> int:
        """How far serials are ahead of the wall clock, after that was set back."""
        return max(0, serial_ms(self.serials.last) - wall_ms)

    def follow(self, wall_ms: int, steady_ms: int) -> None:
        """New serials use this wall time from now on, which corresponds to this steady time."""
        mark = self.timeline.marks[-1]
        since_mark_ms = wall_ms - mark.serial_ms
        drift_ms = since_mark_ms - steady_ms + mark.steady_ms
        if not mark.paced or since_mark_ms < 0 or not -BEHIND_MS <= drift_ms <= AHEAD_MS:
            self._mark(mark, wall_ms, steady_ms)

    def _mark(self, mark: Mark, wall_ms: int, steady_ms: int) -> None:
        """Add a mark, because the last one no longer describes the course of serials."""
        last_ms = serial_ms(self.serials.last)
        if wall_ms > last_ms:
            self.timeline.add(Mark(wall_ms, steady_ms, True))
        elif mark.paced or (last_ms >= mark.serial_ms and steady_ms - mark.steady_ms >= self.step_ms):
            # A step gets a whole millisecond, so that buckets can end there. Otherwise, all entries until the wall
            # clock catches up would be in one bucket, and never old enough to drop.
            self.serials.end_millisecond()
            self.timeline.add(Mark(last_ms + 1, steady_ms, False))
