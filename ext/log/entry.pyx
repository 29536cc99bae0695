# cython: language_level=3
"""An entry of a log: one publish, under its serial; and at its home, until it is settled, who waits for its outcome."""
cimport cython
from libc.stdint cimport uint32_t, uint64_t


@cython.final
@cython.freelist(2048)
cdef class Entry:
    """See above. ``completion`` is None where nobody waits: in a mirror."""

    def __init__(self, uint64_t serial, bytes record not None, uint64_t origin, uint32_t flags, uint32_t count,
                 completion=None):
        self.serial = serial
        self.record = record
        self.origin = origin
        self.flags = flags
        self.count = count
        self.completion = completion

    def follow(self, completion, uint32_t first, uint32_t count):
        """A repeat waits for this one's outcome: ``count`` messages from index ``first`` on."""
        if self.followers is None:
            self.followers = []
        self.followers.append((completion, first, count))
