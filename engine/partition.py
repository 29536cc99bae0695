"""The unit of home: what is numbered, stored and acknowledged together, whatever other partitions wait for.

    partition   sequencer (numbers, ids, what is staged) | journal (where it is stored)
    journal     of the namespaces that are kept on disk
    memory      of those that are not: they never wait for it

A channel's home is in one of them. docs/decisions/0019."""

from __future__ import annotations

from engine.journal.port import Journal
from engine.sequencer import Sequencer
from ext.common import Common
from ext.serial import SerialClock


class Partition:
    """One of a process. ``kept``: its channels have a journal that outlives the process."""

    def __init__(self, journal: Journal, clock: SerialClock, common: Common, *, kept: bool) -> None:
        self.journal = journal
        self.kept = kept
        self.sequencer = Sequencer(clock, common)

    def head(self) -> int:
        """No entry to come in any of its channels is at or before it; the next life of a journal knows it, too."""
        return self.journal.head() if self.kept else self.sequencer.clock.last

    def has_given_out(self, serial: int) -> bool:
        """Can it be a place in the present life of this partition's logs?"""
        return serial <= self.sequencer.clock.last
