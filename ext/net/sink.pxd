from libc.stddef cimport size_t
from libc.stdint cimport uint8_t


cdef class Sink:
    cdef bint take(self, const uint8_t* data, size_t size, bint binary) except -1
