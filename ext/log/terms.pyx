# cython: language_level=3
"""The limits of a publisher: on one publish, and per second.

    fits      one publish: how many messages, how many bytes
    room      the rates of connection, channel, key and app, in this order; none is charged before all allow it
    charge    all of them"""
cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t


@cython.final
cdef class Terms:
    """See above. ``connection`` None: it has no rate of its own."""

    def __init__(self, Rate connection, Rate key not None, Rate app not None, *, uint64_t max_bytes,
                 uint32_t max_messages):
        self.connection = connection
        self.key = key
        self.app = app
        self.max_bytes = max_bytes
        self.max_messages = max_messages

    def check(self, uint32_t count, uint64_t size):
        """A Decision on a publish of ``count`` messages and ``size`` bytes: TOO_MANY, TOO_LARGE, or NEW."""
        return self.fits(count, size)

    def admit(self, Rate channel, uint64_t max_bytes, uint32_t count, uint64_t size, int64_t now_ms):
        """The same for a channel of this rate (None: unlimited) and bound. Charges for the publish if all rates allow
        it.

        Returns: TOO_LARGE, the first rate that is used up, or NEW."""
        cdef int decision = self.room(channel, max_bytes, size, now_ms)
        if decision == NEW:
            self.charge(channel, count, size, now_ms)
        return decision

    def look(self, Rate channel, uint64_t max_bytes, uint64_t size, int64_t now_ms):
        """Like ``admit``, but charges nothing."""
        return self.room(channel, max_bytes, size, now_ms)
