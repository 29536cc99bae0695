# cython: language_level=3
"""What one app does, counted: messages as they pass, who and what is there, and the most that there was at once.

    taken        added to by the loop that makes entries visible, for each of them
    gauge        opened += 1, now += 1, peak = max(peak, now)       ... now -= 1

Nothing is ever set back here: who wants the figures of a span of time takes the difference of two looks. Only a gauge's
peak is asked for since the last look."""
cimport cython
from libc.stdint cimport uint64_t


@cython.final
cdef class Gauge:
    """How many of something there are: ``now``, how many there ever were, the most and the fewest since ``look``."""

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
        """(most, fewest) at once since the last time."""
        found = self.peak, self.least
        self.peak = self.least = self.now
        return found


@cython.final
cdef class Meter:
    """One app's; messages are counted one by one, ``data`` is bytes of their records."""

    def __cinit__(self):
        self.connections = Gauge()
        self.channels = Gauge()

    def messages(self):
        """All counters as they are now, as a tuple of (count, data): in by realtime, by REST; out; persisted."""
        return ((self.realtime_count, self.realtime_data), (self.rest_count, self.rest_data),
                (self.outbound_count, self.outbound_data), (self.persisted_count, self.persisted_data))
