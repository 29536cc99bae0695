# cython: language_level=3
"""A limit on messages, and on their bytes, per second.

    used    + count, + size     with everything that passes
            - rate * time       down to 0
    room    while used < one second's allowance

So a burst of one second passes at once. The last publish may exceed what is left, because a publish is never divided,
and never too large for a rate: the next one waits longer for it. In any period no more passes than the allowance of its
seconds, the burst, and one publish."""
cimport cython
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint64_t


def charge(uint64_t count, uint64_t size):
    """The bytes that ``count`` messages of ``size`` bytes count for under a rate: each counts for some, even if
    empty."""
    return charged(count, size)


@cython.final
cdef class Rate:
    """``messages`` and ``data`` (bytes) per second; 0: unlimited. Of one connection, channel, key, or app."""

    def __init__(self, uint64_t messages, uint64_t data):
        self.limit(messages, data)

    def limit(self, uint64_t messages, uint64_t data):
        """Change the limits; what has been used still counts."""
        self.messages = messages
        self.data = data
        self._limited = messages != 0 or data != 0
        if not messages:
            self._messages_used = 0
        if not data:
            self._data_used = 0

    @property
    def limited(self):
        return self._limited

    def room(self, int64_t now_ms):
        """May one more publish pass?"""
        return self.has_room(now_ms)

    def take(self, int64_t now_ms, uint64_t count, uint64_t size):
        """Charge for a publish that has passed."""
        self.use(now_ms, count, size)

    def wait_ms(self, int64_t now_ms):
        """Time in ms until one more may pass; 0: now."""
        cdef double wait = 0
        if self.has_room(now_ms):
            return 0
        if self.messages and self._messages_used >= <double>self.messages:
            wait = (self._messages_used - <double>self.messages) / <double>self.messages
        if self.data and self._data_used >= <double>self.data:
            wait = max(wait, (self._data_used - <double>self.data) / <double>self.data)
        return int(ceil(wait * 1000)) + 1       # then it is less than the allowance, not equal

    cdef void _refill(self, int64_t now_ms) noexcept:
        cdef double seconds = <double>(now_ms - self._at_ms) / 1000
        self._at_ms = now_ms
        if seconds <= 0:                # the same turn, or the clock was set back
            return
        self._messages_used = max(0.0, self._messages_used - seconds * <double>self.messages)
        self._data_used = max(0.0, self._data_used - seconds * <double>self.data)
