from libc.stdint cimport int64_t, uint32_t, uint64_t

from ext.log.common cimport Common
from ext.log.home cimport Home
from ext.log.staging cimport Names
from ext.text.serial cimport SerialClock


cdef class Sequence:
    cdef readonly SerialClock clock
    cdef readonly Common common
    cdef readonly uint64_t revealed # serial of the newest visible entry: later ones are greater
    cdef public object refusing     # why nothing can be kept now (plain publishes take the slow path then), or None
    cdef list _homes                # those with pending entries
    cdef Py_ssize_t _count

    cdef int decide(self, Home home, Names* names, bint of_before, uint32_t flags) noexcept
    cdef int enter(self, Home home, Names* names, bytes record, uint64_t origin, uint32_t flags,
                   object completion) except -1
