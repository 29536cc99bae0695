"""Steady time: what has passed, whatever is done to the wall clock.

    read     wall, elapsed, stalled --> steady time, which all logs follow (engine/logclock.py)

    elapsed   of a clock that nobody sets and that runs on while the machine sleeps, in ms
    stalled   how much of that the process did not run: nobody could reach it, so it counts for nobody

Over a restart steady time goes on from where it was noted. In the same run of the machine the elapsed clock says how
long that is ago. After another start of the machine only the wall clock can, which may be wrong: it is believed for
up to ``limits.ASLEEP_MS``, so that what is kept for a time is rather kept for too long.

Serials follow the wall clock, but never further than ``limits.SERIALS_AHEAD_MS`` beyond steady time: one that was far
in the future for a moment must not use up all the serials there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine import limits
from engine.logclock import LogClock
from engine.timeline import LARGEST_MS

JUMP_MS = 1_000  # what the wall clock has moved by at once, against the elapsed one, to be called a jump
CAUTION_MS = 3_600_000  # as long as a token can live that somebody may have taken back (engine/auth/revocation.py)


@dataclass(frozen=True, slots=True)
class ClockNote:
    """What the clocks said when they were last noted."""

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
    """The wall clock has been set: to ``wall_ms``, and by so much."""

    by_ms: int
    wall_ms: int


class SteadyClock:
    """``steady_ms`` and ``wall_ms`` are those of the last reading; the latter is what serials are made of."""

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
            logs: what earlier lives have left; those that begin now may ``join`` later.
            noted: by an earlier life with these logs; None: there was none, so the wall clock is believed.
            wall_ms, elapsed_ms, stalled_ms: of now. boot_id: of this run of the machine; empty: not known.
        """
        self.jumps = 0
        self.jumped_ms = 0  # all jumps together
        self.last_jump: Jump | None = None
        self._doubted_ms = 0  # until then in steady time
        self._least_offset = 0  # ... the wall clock may be ahead of the right time, which is steady time and this
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
                if same_boot or moved < 0:  # else it may have been off for so long
                    self._jumped(moved, wall_ms)
        self.wall_ms = 0
        self.read(wall_ms, elapsed_ms, stalled_ms)

    def read(self, wall_ms: int, elapsed_ms: int, stalled_ms: int) -> int:
        """Take note of what the clocks say; the steady time. Before any serial is given out for this ``wall_ms``."""
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
        """It begins, and follows from now on."""
        self._logs.append(log)
        log.follow(self.wall_ms, self.steady_ms)

    @property
    def cautious_ms(self) -> int:
        """The wall clock's time, as long as nobody sets that forward; then, for an hour, what it would be otherwise.

        For what must not be taken for over too soon, and is told by a time that people have given."""
        if self.steady_ms >= self._doubted_ms:
            return self.wall_ms
        return min(self.wall_ms, self.steady_ms + self._least_offset)

    @property
    def ahead_ms(self) -> int:
        """How far the serials of a log are ahead of the wall clock at most, because that was set back."""
        return max(log.ahead_ms(self.wall_ms) for log in self._logs)

    def noted(self) -> ClockNote:
        """The last reading, to be kept for the next life: it goes on from there."""
        return ClockNote(self.steady_ms, self._offset + self._elapsed_ms, self._elapsed_ms, self._boot_id)

    def _doubt(self, would_be_ms: int) -> None:
        """The wall clock would show this, had it not been set just now."""
        offset = would_be_ms - self.steady_ms
        self._least_offset = min(self._least_offset, offset) if self.steady_ms < self._doubted_ms else offset
        self._doubted_ms = self.steady_ms + CAUTION_MS

    def _jumped(self, by_ms: int, wall_ms: int) -> None:
        self.jumps += 1
        self.jumped_ms += by_ms
        self.last_jump = Jump(by_ms, wall_ms)
