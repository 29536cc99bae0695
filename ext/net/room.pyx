# cython: language_level=3
"""How many bytes of what is incomplete the server holds for all connections together: bodies, heads, frames.

    |############ held ############|                |= spare =|
    0                                                         max_bytes

Anything fits while the spare part is left. Of that, one takes so little that others of its size fit, too: a crowd that has
filled the room with large ones, or with many, leaves some for whoever comes with a small one."""
cimport cython
from libc.stdint cimport uint64_t

cdef enum:
    SPARE_PART = 128        # of all: 1 MiB of the usual 128
    OTHERS = 4              # of the same size that find room after it, in the spare part


@cython.final
cdef class Room:
    """See above."""

    def __init__(self, uint64_t max_bytes):
        self.max_bytes = max_bytes

    def limit(self, uint64_t max_bytes):
        """From now on so many bytes; what is held beyond them stays until it is released."""
        self.max_bytes = max_bytes

    def grow(self, uint64_t size, uint64_t more):
        """One that holds ``size`` bytes gets more; False: it can't, there is no room."""
        return self.take(size, more)

    def hold(self, uint64_t more):
        """The same for what has to be held, whatever there is."""
        self.held += more

    def release(self, uint64_t size):
        """So many are not held any more."""
        self.held -= size

    @property
    def short(self):
        """Is nothing left but the spare part?"""
        return self.held > self.max_bytes - self.max_bytes // SPARE_PART

    cdef bint take(self, uint64_t size, uint64_t more) noexcept:
        cdef uint64_t after = self.held + more
        if after > self.max_bytes - self.max_bytes // SPARE_PART and (
                after >= self.max_bytes or size + more > (self.max_bytes - after) // OTHERS):
            self.refused += 1
            return False
        self.held = after
        return True
