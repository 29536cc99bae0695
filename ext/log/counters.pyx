# cython: language_level=3
"""Counters of one app: messages as they pass, connections and the like, and peaks.

    taken        added to by the loop that makes entries visible, for each of them
    gauge        opened += 1, now += 1, peak = max(peak, now)       ... now -= 1

Counters are never reset: for the figures of a period, take the difference of two looks. Only the peak of a gauge is
relative to the last look."""
cimport cython
from libc.stdint cimport uint64_t


@cython.final
cdef class Gauge:
    """A count that goes up and down: ``now``, how many there ever were, the most and the fewest since ``look``."""

    def add(self):
        self.now += 1
        self.opened += 1
        if self.now > self.peak:
            self.peak = self.now

    def remove(self):
        self.now -= 1
        if self.now < self.least:
            self.least = self.now

    def look(self):
        """(most, fewest) at once since the last look."""
        found = self.peak, self.least
        self.peak = self.least = self.now
        return found


@cython.final
cdef class Meter:
    """Counters of one app; messages are counted one by one, ``data`` is bytes of their records."""

    def __cinit__(self):
        self.connections = Gauge()
        self.channels = Gauge()

    def messages(self):
        """All counters now, as a tuple of (count, data): in by realtime, by REST; out; persisted."""
        return ((self.realtime_count, self.realtime_data), (self.rest_count, self.rest_data),
                (self.outbound_count, self.outbound_data), (self.persisted_count, self.persisted_data))
