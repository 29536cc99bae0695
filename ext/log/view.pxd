from libc.stdint cimport uint32_t, uint64_t

from ext.log.budget cimport Share
from ext.log.counters cimport Meter
from ext.log.ring cimport Ring


cdef class View:
    cdef readonly str key
    cdef public str series
    cdef public Meter meter             # its app's; None: nobody counts
    cdef public Share share             # of the memory for rings and streams, its app's; None: it is not bounded in all
    cdef public object outgoing         # a Shaper: what may be delivered from here; None: any number
    cdef public Ring ring
    cdef public uint64_t head

    cdef int show(self, uint64_t serial, bytes record, uint64_t origin, uint32_t flags) except -1
    cdef uint64_t show_all(self, list entries, list moved) except? 0xFFFFFFFF
