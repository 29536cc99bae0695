from libc.stdint cimport int64_t, uint32_t, uint64_t

from ext.log.home cimport Home
from ext.text.serial cimport SerialClock
from ext.log.common cimport Common


cdef class Sequence:
    cdef readonly SerialClock clock
    cdef readonly Common common
    cdef readonly uint64_t revealed # serial of the newest entry that was made visible: what comes later is after it
    cdef public object refusing     # why nothing can be kept just now; plain publishes go the long way then. None: it can
    cdef list _homes                # those with something pending
    cdef Py_ssize_t _count

    cdef int put(self, Home home, uint64_t serial, bytes record, uint64_t origin, uint32_t flags, uint32_t count,
                 object completion) except -1
