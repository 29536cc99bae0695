"""The time of a turn: the clock is read at most once per millisecond.

wall      shown to people, and agreed on with other machines
steady    for spans of time: setting the clock must not make a silent client look lost
cautious  the wall clock's, for periods that must not end early because the clock was set forward"""

from __future__ import annotations

import time

from engine.partition import Partition
from ext.log.common import Common
from server.node.clock import Clock


class Now:
    """The time of one server; ``common`` receives each reading."""

    def __init__(self, clock: Clock, common: Common) -> None:
        self.clock = clock
        self._common = common
        self._read_in_ms = -1  # by the kernel's monotonic clock, which is ten times as fast to read
        self.read()
        self.started_ms = clock.steady.steady_ms

    def read(self) -> None:
        """Read the clock: publishes from now on get this millisecond."""
        read_in_ms = time.monotonic_ns() // 1_000_000
        if read_in_ms != self._read_in_ms:
            self._read_in_ms = read_in_ms
            now, common = self.clock.read(), self._common
            common.now_ms, common.steady_ms = now.wall_ms, now.steady_ms

    def wall_ms(self) -> int:
        self.read()
        return self._common.now_ms

    def steady_ms(self) -> int:
        self.read()
        return self._common.steady_ms

    def cautious_ms(self) -> int:
        self.read()
        return self.clock.steady.cautious_ms

    def turn_ms(self) -> int:
        """Steady time at the beginning of this turn."""
        return self._common.steady_ms

    def turn_wall_ms(self) -> int:
        """Wall-clock time at the beginning of this turn."""
        return self._common.now_ms

    def older_than(self, partition: Partition, age_ms: int) -> int:
        """The milliseconds of a partition's serials below which everything is older than ``age_ms``."""
        return partition.older_than(self.steady_ms() - age_ms)
