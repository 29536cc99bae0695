# cython: language_level=3
"""What a publisher goes by: how much one publish may hold, and how many may pass in a second.

    fits      the publish alone: how many messages, how many bytes
    room      the rates of connection, channel, key and app, in this order; none is charged before all have room
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
        """The same for a channel of this rate (None: any number) and bound: charge for it, if all have room.

        Returns: TOO_LARGE, the first rate without room, or NEW."""
        cdef int decision = self.room(channel, max_bytes, size, now_ms)
        if decision == NEW:
            self.charge(channel, count, size, now_ms)
        return decision

    def look(self, Rate channel, uint64_t max_bytes, uint64_t size, int64_t now_ms):
        """As ``admit``, and nothing is charged."""
        return self.room(channel, max_bytes, size, now_ms)
