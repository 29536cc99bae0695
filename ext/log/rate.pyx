# cython: language_level=3
"""How much may pass in a second: messages, and bytes of them.

    used    + count, + size     with everything that passes
            - rate * time       down to nothing
    room    while used < one second's allowance

So a burst of one second passes at once, and what passes last may be more than is left (a publish is never cut in two, and
never too large for a rate): the next has to wait for that much longer. Over any span no more passes than its seconds
allow, the burst, and one publish."""
cimport cython
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint64_t


def charge(uint64_t count, uint64_t size):
    """Bytes that so many published messages of so many bytes count for under a rate: some for each, whatever is in it."""
    return charged(count, size)


@cython.final
cdef class Rate:
    """``messages`` and ``data`` (bytes) in a second; 0: unlimited. Of one connection, channel, key, or app."""

    def __init__(self, uint64_t messages, uint64_t data):
        self.limit(messages, data)

    def limit(self, uint64_t messages, uint64_t data):
        """From now on it is so much; what has been used counts."""
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
        """It has passed."""
        self.use(now_ms, count, size)

    def wait_ms(self, int64_t now_ms):
        """After so many ms there is room; 0: there is some now."""
        cdef double wait = 0
        if self.has_room(now_ms):
            return 0
        if self.messages and self._messages_used >= <double>self.messages:
            wait = (self._messages_used - <double>self.messages) / <double>self.messages
        if self.data and self._data_used >= <double>self.data:
            wait = max(wait, (self._data_used - <double>self.data) / <double>self.data)
        return int(ceil(wait * 1000)) + 1       # then it is less than the allowance, not just as much

    cdef void _refill(self, int64_t now_ms) noexcept:
        cdef double seconds = <double>(now_ms - self._at_ms) / 1000
        self._at_ms = now_ms
        if seconds <= 0:                # the same turn, or somebody has set the clock back
            return
        self._messages_used = max(0.0, self._messages_used - seconds * <double>self.messages)
        self._data_used = max(0.0, self._data_used - seconds * <double>self.data)
