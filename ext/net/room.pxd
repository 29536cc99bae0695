from libc.stdint cimport uint64_t


cdef class Room:
    cdef readonly uint64_t max_bytes, held   # bytes
    cdef readonly uint64_t refused      # number of refusals

    cdef bint take(self, uint64_t size, uint64_t more) noexcept
