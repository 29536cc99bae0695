from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.text.msgpack_input cimport In
from ext.text.output cimport Out
from ext.text.utf8 cimport Text

cdef enum:
    KEPT = 5                    # members of a message that a record keeps as text or bytes


cdef class Publish:
    cdef readonly str channel
    cdef readonly uint64_t msg_serial
    cdef readonly uint32_t count
    cdef readonly uint64_t size
    cdef readonly tuple ids, client_ids
    cdef readonly bint ephemeral, privileged
    cdef readonly bytes messages
    cdef readonly dict params


cdef struct Members:
    Text text[KEPT]
    bint binary                 # DATA is bytes
    uint32_t seen               # a bit for each member, so that none counts twice


cdef class Parser:
    cdef Out out                # the messages, behind the header of an array of one
    cdef Out scratch            # strings that had escapes
    cdef Text channel
    cdef uint64_t msg_serial
    cdef uint32_t seen          # of the protocol message
    cdef uint32_t count
    cdef uint64_t size
    cdef list ids, client_ids   # None while none was named

    cdef bint parse(self, const uint8_t* data, size_t size, bint msgpack) except -1
    cdef bint parse_messages(self, const uint8_t* data, size_t size, bint msgpack) except -1
    cdef int _begin(self, In* source, const uint8_t* data, size_t size) except -1
    cdef bint _complete(self) except -1
    cdef Publish publish(self)
    cdef bint add(self, Members* members) except -1
    cdef bint _add_names(self, Text* text) except -1
    cdef bint _ids_fit(self) except -1
    cdef bytes _messages(self)
