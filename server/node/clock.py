"""The clocks: the wall clock for people, steady time for ages, and patient time for timeouts.

    boottime    the kernel's: continues while the machine sleeps, and cannot be set
    patient     boottime without the periods in which this process did not run (stopped, machine asleep, CPU stolen):
                trio's deadlines use it, so no client is cut off for silence during such a period
    steady      patient time, continued across restarts (engine/steady.py); equal to the wall clock until that is set

A stall shows in a missing look at the clock: the process slept longer than requested, or ran without ever looking."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import trio

from engine.journal.boot import read_boot_id
from engine.logclock import LogClock
from engine.steady import ClockNote, SteadyClock
from server.logs import facts

LOGGER = logging.getLogger("unbroken.clock")

STALL_NS = 1_000_000_000  # without a look at the clock; a working server looks five times a second
TEAR_NS = 2_000_000  # two clocks are read one after the other; if more than this passes in between, read both again
TEARS = 3


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class PatientClock(trio.abc.Clock):
    """The clock of one trio run. Only its thread reads it."""

    def __init__(self, boottime: Callable[[], int] | None = None) -> None:
        """``boottime``: in ns; replaced in tests."""
        self._boottime_ns = boottime if boottime is not None else boottime_ns
        self._seen_ns = self._boottime_ns()
        self._asleep_ns = 0  # the sleep requested since then
        self.stalled_ns = 0
        self.stalls = 0

    def look(self) -> int:
        """Boottime in ns, after a check for a stall."""
        now_ns = self._boottime_ns()
        late_ns = now_ns - self._seen_ns - self._asleep_ns
        if late_ns > STALL_NS:
            self.stalled_ns += late_ns
            self.stalls += 1
            LOGGER.warning("the server did not run for %.1f s: nobody counts as silent for that time", late_ns / 1e9)
        self._seen_ns, self._asleep_ns = now_ns, 0
        return now_ns

    def start_clock(self) -> None:
        self._seen_ns = self._boottime_ns()

    def current_time(self) -> float:
        return (self.look() - self.stalled_ns) / 1e9

    def deadline_to_sleep_time(self, deadline: float) -> float:
        seconds = deadline - self.current_time()
        self._asleep_ns = int(max(0.0, min(seconds, 1e6)) * 1e9)
        return seconds


class Clock:
    """The clock of one server."""

    def __init__(
        self,
        log: LogClock,
        noted: bytes | None,
        *,
        patient: PatientClock | None = None,
        wall_ms: Callable[[], int] | None = None,
        boot_id: str | None = None,
    ) -> None:
        """
        Args:
            log, noted: as restored from the journal.
            patient, wall_ms, boot_id: replaced in tests; ``patient`` must be the clock that trio uses.
        Raises: ValueError, when ``noted`` is damaged.
        """
        self.log = log
        self.patient = patient if patient is not None else PatientClock()
        self._wall_ms = wall_ms if wall_ms is not None else wall_clock_ms
        wall, elapsed, stalled = self._look()
        self.steady = SteadyClock(
            [log],
            noted=ClockNote.load(noted) if noted else None,
            wall_ms=wall,
            elapsed_ms=elapsed,
            stalled_ms=stalled,
            boot_id=read_boot_id() if boot_id is None else boot_id,
        )
        self._told = 0
        self._tell()

    def read(self) -> SteadyClock:
        """The current time. Frequent callers keep the answer for a millisecond (server/node/now.py)."""
        self.steady.read(*self._look())
        if self.steady.jumps != self._told:
            self._tell()
        return self.steady

    def noted(self) -> bytes:
        """The last reading, to be stored for the next life."""
        return self.steady.noted().dump()

    def statistics(self) -> dict[str, object]:
        """For ``GET /health``."""
        steady, jump = self.steady, self.steady.last_jump
        return {
            "jumps": steady.jumps,
            "offsetMs": steady.jumped_ms,
            "lastJump": {"byMs": jump.by_ms, "to": jump.wall_ms} if jump is not None else None,
            "serialsAheadMs": steady.ahead_ms,
            "stalls": self.patient.stalls,
            "stalledMs": self.patient.stalled_ns // 1_000_000,
        }

    def _look(self) -> tuple[int, int, int]:
        for _ in range(TEARS):
            before = self.patient.look()
            wall = self._wall_ms()
            if self.patient.look() - before <= TEAR_NS:
                break
        return wall, before // 1_000_000, self.patient.stalled_ns // 1_000_000

    def _tell(self) -> None:
        self._told = self.steady.jumps
        jump = self.steady.last_jump
        if jump is not None:
            LOGGER.warning(
                "the wall clock was set %s by %.1f s: serials never go back, and expiry follows elapsed time",
                "forward" if jump.by_ms > 0 else "back",
                abs(jump.by_ms) / 1000,
                extra=facts("clock_jump", by_ms=jump.by_ms),
            )
