from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.wire.plain cimport Builder


cdef class Publish:
    cdef readonly str channel
    cdef readonly uint64_t msg_serial
    cdef readonly uint32_t count
    cdef readonly uint64_t size
    cdef readonly tuple ids, client_ids
    cdef readonly bint ephemeral, privileged
    cdef readonly bytes messages


cdef class Parser(Builder):
    cdef bint parse(self, const uint8_t* data, size_t size, bint msgpack) except -1
    cdef bint parse_messages(self, const uint8_t* data, size_t size, bint msgpack) except -1
    cdef Publish publish(self)
    cdef bytes _messages(self)
