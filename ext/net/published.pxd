from libc.stdint cimport uint32_t, uint64_t

from ext.text.output cimport Out


cdef bytes opening_of(str channel, bint msgpack)
cdef int put_published(Out* out, bint msgpack, bytes opening, bytes message_id, uint64_t serial, str series, uint32_t first,
                       uint32_t count) except -1
