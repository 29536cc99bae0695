from libc.stddef cimport size_t
from libc.stdint cimport uint64_t


cdef struct Range:
    uint64_t begin
    uint64_t end                # exclusive


cdef class Ranges:
    cdef readonly uint64_t total
    cdef Range* _ranges
    cdef size_t _count, _room

    cdef int append(self, uint64_t begin, uint64_t end) except -1
    cdef bint discard(self, uint64_t number) except *
    cdef bint has(self, uint64_t number) noexcept nogil
    cdef size_t _after(self, uint64_t number) noexcept nogil
    cdef int _reserve(self, size_t count) except -1
