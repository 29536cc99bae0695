"""The unit of home: what is numbered, stored and acknowledged together, whatever other partitions wait for.

    clock       gives out its serials, and knows when it did
    sequencer   ids, what is staged, what is under way
    journal     where it is stored: on disk for namespaces that are kept, nowhere for those in memory

A channel's home is in one of them, and what depends on its log is asked of that: the head, whether a cursor may be one
of its, how old a serial is. docs/decisions/0019."""

from __future__ import annotations

from engine.journal.lives import Lives
from engine.journal.memory import MemoryJournal
from engine.journal.port import Journal
from engine.logclock import LogClock
from engine.sequencer import Sequencer
from ext.log.common import Common
from ext.text.serial import SerialClock, serial_ms


class Partition:
    """One of a process. ``kept``: its channels have a journal that outlives the process."""

    def __init__(self, journal: Journal, clock: LogClock, common: Common, *, kept: bool) -> None:
        self.journal = journal
        self.clock = clock
        self.kept = kept
        self.sequencer = Sequencer(clock.serials, common)
        self.began = clock.serials.last  # what its journal has up to here is of earlier lives

    @staticmethod
    def in_memory(common: Common, *, step_ms: int) -> Partition:
        """One that begins with the process, and ends with it."""
        journal = MemoryJournal()
        return Partition(journal, LogClock(journal.timeline, SerialClock(), step_ms=step_ms), common, kept=False)

    def head(self) -> int:
        """No entry to come in any of its channels is at or before it; the next life of a journal knows it, too."""
        return self.journal.head() if self.kept else self.clock.serials.last

    def has_given_out(self, serial: int) -> bool:
        """Can it be a place in the present life of this partition's logs?"""
        return serial <= self.clock.serials.last

    def series(self, *, synced: bool) -> str:
        """Of the present life of its logs that are stored this way."""
        return self.journal.series_for(synced)

    def lives(self, *, synced: bool) -> Lives | None:
        """Of those logs, whose serials count; None: the present one alone."""
        return self.journal.lives_for(synced) if self.kept else None

    def steady_of(self, serial: int) -> int:
        """When it was given out, in steady time, by this life or an earlier one; rather too late."""
        return min(self.clock.timeline.all_by(serial_ms(serial) + 1), self.sequencer.common.steady_ms)

    def older_than(self, steady_ms: int) -> int:
        """The milliseconds of serials below which all were given out before that time."""
        return self.clock.timeline.older_than(steady_ms)
