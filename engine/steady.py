"""Steady time: elapsed time, independent of changes to the wall clock.

    read     wall, elapsed, stalled --> steady time, which all logs follow (engine/logclock.py)

    elapsed   of a clock that cannot be set and continues while the machine sleeps, in ms
    stalled   the part of it in which the process did not run: no client could reach it, so it does not count

After a restart steady time continues from its last note. Within one boot of the machine the elapsed clock gives the
time since then. After a reboot only the wall clock can, which may be wrong: it is trusted for up to
``limits.ASLEEP_MS``, so data is kept for too long rather than too short.

Serials follow the wall clock, but never further than ``limits.SERIALS_AHEAD_MS`` beyond steady time: a clock that was
far in the future for a moment must not use up the range of serials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine import limits
from engine.logclock import LogClock
from engine.timeline import LARGEST_MS

JUMP_MS = 1_000  # a change of the wall clock against the elapsed one from which it counts as a jump
CAUTION_MS = 3_600_000  # the longest life of a token that may be revoked (engine/auth/revocation.py)


@dataclass(frozen=True, slots=True)
class ClockNote:
    """The last noted reading of the clocks."""

    steady_ms: int
    wall_ms: int
    elapsed_ms: int
    boot_id: str

    def dump(self) -> bytes:
        return f"{self.steady_ms} {self.wall_ms} {self.elapsed_ms} {self.boot_id}".encode()

    @staticmethod
    def load(content: bytes) -> ClockNote:
        """Raises: ValueError."""
        steady, wall, elapsed, boot_id = content.decode().split(" ")
        return ClockNote(int(steady), int(wall), int(elapsed), boot_id)


@dataclass(frozen=True, slots=True)
class Jump:
    """The wall clock was set: to ``wall_ms``, by this much."""

    by_ms: int
    wall_ms: int


class SteadyClock:
    """``steady_ms`` and ``wall_ms`` are those of the last reading; serials use the latter."""

    def __init__(
        self,
        logs: Sequence[LogClock],
        *,
        noted: ClockNote | None,
        wall_ms: int,
        elapsed_ms: int,
        stalled_ms: int = 0,
        boot_id: str = "",
    ) -> None:
        """
        Args:
            logs: those of earlier lives; new ones may ``join`` later.
            noted: by an earlier life with these logs; None: no note exists, so the wall clock is trusted.
            wall_ms, elapsed_ms, stalled_ms: the current readings. boot_id: this boot of the machine; empty: not known.
        """
        self.jumps = 0
        self.jumped_ms = 0  # all jumps together
        self.last_jump: Jump | None = None
        self._doubted_ms = 0  # until then, in steady time,
        self._least_offset = 0  # ... the wall clock may be ahead of the right time, which is steady time plus this
        self._logs = list(logs)
        self._boot_id = boot_id
        same_boot = noted is not None and boot_id != "" and noted.boot_id == boot_id
        passed = 0
        if noted is None:
            begin = max(min(wall_ms, LARGEST_MS // 2), *(log.newest_ms for log in logs))
        elif same_boot and elapsed_ms >= noted.elapsed_ms:
            passed = elapsed_ms - noted.elapsed_ms
            begin = noted.steady_ms + passed
        else:
            passed = min(max(wall_ms - noted.wall_ms, 0), limits.ASLEEP_MS)
            begin = noted.steady_ms + passed
        self.steady_ms = max(begin, *(log.timeline.marks[-1].steady_ms for log in logs))
        self._base = self.steady_ms - elapsed_ms + stalled_ms
        self._offset = wall_ms - elapsed_ms
        if noted is not None:
            moved = wall_ms - noted.wall_ms - passed
            if abs(moved) >= JUMP_MS:
                self._doubt(wall_ms - moved)
                if same_boot or moved < 0:  # otherwise the machine may have been off for that long
                    self._jumped(moved, wall_ms)
        self.wall_ms = 0
        self.read(wall_ms, elapsed_ms, stalled_ms)

    def read(self, wall_ms: int, elapsed_ms: int, stalled_ms: int) -> int:
        """Record the readings of the clocks; returns the steady time. Call it before any serial is issued for this
        ``wall_ms``."""
        steady_ms = max(self._base + elapsed_ms - stalled_ms, self.steady_ms)
        self.steady_ms = steady_ms
        self._elapsed_ms = elapsed_ms
        moved, self._offset = wall_ms - elapsed_ms - self._offset, wall_ms - elapsed_ms
        if abs(moved) >= JUMP_MS:
            self._doubt(wall_ms - moved)
            self._jumped(moved, wall_ms)
        self.wall_ms = wall_ms = max(0, min(wall_ms, steady_ms + limits.SERIALS_AHEAD_MS, LARGEST_MS))
        for log in self._logs:
            log.follow(wall_ms, steady_ms)
        return steady_ms

    def join(self, log: LogClock) -> None:
        """Let a new log follow from now on."""
        self._logs.append(log)
        log.follow(self.wall_ms, self.steady_ms)

    @property
    def cautious_ms(self) -> int:
        """The wall clock's time; but for an hour after it was set forward, the time without that change.

        For deadlines given in wall time that must not pass too soon."""
        if self.steady_ms >= self._doubted_ms:
            return self.wall_ms
        return min(self.wall_ms, self.steady_ms + self._least_offset)

    @property
    def ahead_ms(self) -> int:
        """The maximum that the serials of a log are ahead of the wall clock, after that was set back."""
        return max(log.ahead_ms(self.wall_ms) for log in self._logs)

    def noted(self) -> ClockNote:
        """The last reading, stored for the next life, which continues from there."""
        return ClockNote(self.steady_ms, self._offset + self._elapsed_ms, self._elapsed_ms, self._boot_id)

    def _doubt(self, would_be_ms: int) -> None:
        """The wall clock has just been set; ``would_be_ms`` is its time without that."""
        offset = would_be_ms - self.steady_ms
        self._least_offset = min(self._least_offset, offset) if self.steady_ms < self._doubted_ms else offset
        self._doubted_ms = self.steady_ms + CAUTION_MS

    def _jumped(self, by_ms: int, wall_ms: int) -> None:
        self.jumps += 1
        self.jumped_ms += by_ms
        self.last_jump = Jump(by_ms, wall_ms)
