from libc.stdint cimport int64_t, uint32_t, uint64_t

from ext.home cimport Home
from ext.serial cimport SerialClock


cdef class Sequence:
    cdef readonly SerialClock clock
    cdef public uint64_t pending_bytes
    cdef public uint64_t most_pending   # of them; then publishes are refused
    cdef public uint64_t remembered
    cdef readonly uint64_t most_remembered
    cdef readonly uint64_t revealed # serial of the newest entry that was made visible: what comes later is after it
    cdef public bint shared         # by several apps: none may remember so much that the others find no room
    cdef public int64_t now_ms, steady_ms
    cdef public object refusing     # why nothing can be kept just now; plain publishes go the long way then. None: it can
    cdef list _homes                # those with something pending
    cdef Py_ssize_t _count

    cdef bint may_remember(self, Home home, uint32_t count) noexcept
    cdef int put(self, Home home, uint64_t serial, bytes record, uint64_t origin, uint32_t flags, uint32_t count,
                 object completion) except -1
