from libc.stdint cimport int64_t, uint64_t

from ext.log.rate cimport Rate
from ext.log.stream cimport Stream


cdef class Shaper:
    cdef Rate _first, _second, _third   # None: not used

    cdef bint is_open(self, int64_t now_ms) noexcept
    cdef void use(self, int64_t now_ms, uint64_t count, uint64_t size) noexcept
    cdef int use_frames(self, int64_t now_ms, Stream stream, uint64_t begin, uint64_t end, uint64_t skip_origin) except -1
