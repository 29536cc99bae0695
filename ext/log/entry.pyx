# cython: language_level=3
"""An entry of a log: one publish, under its serial; at its home, until it is settled, also its completion
and those of its repeats."""
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
        """Add a repeat that waits for the outcome: ``count`` messages from index ``first`` on."""
        if self.followers is None:
            self.followers = []
        self.followers.append((completion, first, count))
