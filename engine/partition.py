"""A partition: channels that are numbered, stored and acknowledged together, independently of other partitions.

    clock       issues its serials, and records their times
    sequencer   ids, staged entries, entries under way
    journal     the storage: on disk for namespaces that are kept, none for those in memory

Each channel has its home in one partition, which answers questions about its log: the head, the validity of a cursor,
the age of a serial. docs/decisions/0019."""

from __future__ import annotations

from engine.journal.lives import Lives
from engine.journal.memory import MemoryJournal
from engine.journal.port import Journal
from engine.logclock import LogClock
from engine.sequencer import Sequencer
from ext.log.common import Common
from ext.text.serial import SerialClock, serial_ms


class Partition:
    """One partition of a process. ``kept``: its channels have a journal that outlives the process."""

    def __init__(self, journal: Journal, clock: LogClock, common: Common, *, kept: bool) -> None:
        self.journal = journal
        self.clock = clock
        self.kept = kept
        self.sequencer = Sequencer(clock.serials, common)
        self.began = clock.serials.last  # entries in its journal up to here belong to earlier lives

    @staticmethod
    def in_memory(common: Common, *, step_ms: int) -> Partition:
        """A partition that lives as long as the process."""
        journal = MemoryJournal()
        return Partition(journal, LogClock(journal.timeline, SerialClock(), step_ms=step_ms), common, kept=False)

    def head(self) -> int:
        """All future entries in its channels have greater serials; the journal's next life knows it, too."""
        return self.journal.head() if self.kept else self.clock.serials.last

    def has_given_out(self, serial: int) -> bool:
        """Can it be a position in the present life of this partition's logs?"""
        return serial <= self.clock.serials.last

    def series(self, *, synced: bool) -> str:
        """The series of the present life of its logs with this durability."""
        return self.journal.series_for(synced)

    def lives(self, *, synced: bool) -> Lives | None:
        """The lives of those logs whose serials are valid; None: only the present one."""
        return self.journal.lives_for(synced) if self.kept else None

    def steady_of(self, serial: int) -> int:
        """The steady time at which this or an earlier life issued it, or somewhat later."""
        return min(self.clock.timeline.all_by(serial_ms(serial) + 1), self.sequencer.common.steady_ms)

    def older_than(self, steady_ms: int) -> int:
        """The milliseconds of serials below which all were issued before that time."""
        return self.clock.timeline.older_than(steady_ms)
