# cython: language_level=3
"""Memory for incomplete input of all connections together: bodies, heads, frames.

    |############ held ############|                |= spare =|
    0                                                         max_bytes

Anything fits while the spare part is free. Of the spare part each connection gets only so much that others of its size
fit too. Thus a crowd of large or many requests leaves something for a newcomer with a small one."""
cimport cython
from libc.stdint cimport uint64_t

cdef enum:
    SPARE_PART = 128        # of all: 1 MiB of the usual 128
    OTHERS = 4              # of the same size that still fit after it, in the spare part


@cython.final
cdef class Room:
    """See above."""

    def __init__(self, uint64_t max_bytes):
        self.max_bytes = max_bytes

    def limit(self, uint64_t max_bytes):
        """Change the limit; bytes held beyond it stay until they are released."""
        self.max_bytes = max_bytes

    def grow(self, uint64_t size, uint64_t more):
        """One that holds ``size`` bytes asks for more. Returns False if there is no memory."""
        return self.take(size, more)

    def hold(self, uint64_t more):
        """The same for bytes that have to be held in any case."""
        self.held += more

    def release(self, uint64_t size):
        """``size`` bytes are no longer held."""
        self.held -= size

    @property
    def short(self):
        """Is only the spare part left?"""
        return self.held > self.max_bytes - self.max_bytes // SPARE_PART

    cdef bint take(self, uint64_t size, uint64_t more) noexcept:
        cdef uint64_t after = self.held + more
        if after > self.max_bytes - self.max_bytes // SPARE_PART and (
                after >= self.max_bytes or size + more > (self.max_bytes - after) // OTHERS):
            self.refused += 1
            return False
        self.held = after
        return True
