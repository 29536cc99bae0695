from libc.stdint cimport uint32_t, uint64_t

from ext.log.budget cimport Share
from ext.log.counters cimport Meter
from ext.log.ring cimport Ring


cdef class View:
    cdef readonly str key
    cdef public str series
    cdef public Meter meter             # its app's; None: not counted
    cdef public Share share             # its app's, of the memory for rings and streams; None: the total is not bounded
    cdef public object outgoing         # a Shaper: what may be delivered from here; None: unlimited
    cdef public Ring ring
    cdef public uint64_t head

    cdef int show(self, uint64_t serial, bytes record, uint64_t origin, uint32_t flags) except -1
    cdef uint64_t show_all(self, list entries, list moved) except? 0xFFFFFFFF
