from libc.stdint cimport int64_t, uint32_t, uint64_t

from ext.log.counters cimport Meter


cdef class Common:
    cdef public int64_t now_ms, steady_ms
    cdef public uint64_t pending_bytes
    cdef public uint64_t max_staged     # of them; beyond it, publishers are slowed down
    cdef public uint64_t max_pending    # of them; beyond it, publishes are refused
    cdef public uint64_t remembered
    cdef public uint64_t max_remembered
    cdef public bint shared         # by several apps: none may take so much that the others get nothing

    cdef bint may_remember(self, Meter meter, uint32_t count) noexcept
    cdef int remember(self, Meter meter, uint64_t count) except -1

    cdef inline bint is_congested(self) noexcept:
        return self.pending_bytes > self.max_staged
