"""Clocks to set and to stop, and the plain twin of what is known of serials: when each was given out, one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.logclock import LogClock
from engine.steady import ClockNote, SteadyClock
from engine.timeline import Timeline
from ext.text.serial import SerialClock

WALL = 1_700_000_000_000
TICK_MS = 250  # between two looks at the clocks, at most


@dataclass
class Machine:
    """``wall_ms`` can be set; ``elapsed_ms`` begins anew with each run of it; ``steady_ms`` is what nobody can set."""

    wall_ms: int = WALL
    elapsed_ms: int = 5_000
    stalled_ms: int = 0
    steady_ms: int = WALL
    boots: int = 0

    def passes(self, ms: int) -> None:
        self.wall_ms += ms
        self.elapsed_ms += ms
        self.steady_ms += ms

    def stalls(self, ms: int) -> None:
        """The server does not run, though time passes."""
        self.wall_ms += ms
        self.elapsed_ms += ms
        self.stalled_ms += ms


@dataclass
class Life:
    """One server's clock on a machine, with what outlives it."""

    machine: Machine
    step_ms: int
    timeline: Timeline = field(default_factory=Timeline)
    serials: SerialClock = field(default_factory=SerialClock)
    noted: ClockNote | None = None
    given: dict[int, int] = field(default_factory=dict)  # serial -> steady ms

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        machine = self.machine
        self.clock = SteadyClock(
            [LogClock(self.timeline, self.serials, step_ms=self.step_ms)],
            noted=self.noted,
            wall_ms=machine.wall_ms,
            elapsed_ms=machine.elapsed_ms,
            stalled_ms=machine.stalled_ms,
            boot_id=f"boot-{machine.boots}",
        )

    def read(self) -> int:
        machine = self.machine
        return self.clock.read(machine.wall_ms, machine.elapsed_ms, machine.stalled_ms)

    def passes(self, ms: int) -> None:
        while ms > 0:
            self.machine.passes(min(ms, TICK_MS))
            ms -= TICK_MS
            self.read()

    def give(self) -> int:
        self.read()
        serial = self.serials.next(self.clock.wall_ms)
        self.given[serial] = self.machine.steady_ms
        return serial

    def restart(self, off_ms: int, *, same_boot: bool, timeline: Timeline | None = None) -> None:
        """It was last noted just now; the machine runs on for so long without it, or is off."""
        self.read()
        self.noted = ClockNote.load(self.clock.noted().dump())
        if timeline is None:
            timeline = Timeline()
            timeline.load(self.timeline.dump())
        self.timeline = timeline
        self.serials = SerialClock(max(self.given, default=0))
        self.machine.passes(off_ms)
        if not same_boot:
            self.machine.boots += 1
            self.machine.elapsed_ms = 1_000
        self.begin()
