from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    EPHEMERAL_FLAG = 1      # of an entry for those attached at the time; never replayed


cdef class Entry:
    cdef readonly uint64_t serial, origin
    cdef readonly uint64_t previous     # the serial of the previous entry in its log; set when it is taken
    cdef readonly uint32_t flags, count
    cdef readonly bytes record
    cdef readonly object completion
    cdef readonly list followers        # of a repeat: (completion, first index, count); None while there are none
