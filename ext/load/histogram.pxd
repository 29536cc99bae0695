from libc.stdint cimport uint64_t


cdef class Histogram:
    cdef uint64_t* _counts
    cdef readonly uint64_t count        # number of recorded values
    cdef readonly uint64_t largest      # exact
    cdef double _sum

    cdef uint64_t _told(self, uint64_t index) noexcept nogil
    cdef void add(self, uint64_t value) noexcept nogil
