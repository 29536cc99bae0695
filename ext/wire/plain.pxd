from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.text.msgpack_input cimport In
from ext.text.output cimport Out
from ext.text.utf8 cimport Text

cdef enum:
    KEPT = 5                    # members of a message that a record keeps as text or bytes
    ROOM = 64                   # of the output, beyond the size of the input: it is hardly ever longer


cdef struct Members:
    Text text[KEPT]
    bint binary                 # DATA is bytes
    uint32_t seen               # a bit for each member, to find repetitions


cdef class Builder:
    cdef Out out                # the messages, after the header of an array of one
    cdef Out scratch            # strings that had escapes
    cdef Text channel
    cdef uint64_t msg_serial
    cdef uint32_t seen          # of the protocol message
    cdef uint32_t count
    cdef uint64_t size
    cdef list ids, client_ids   # None while no message has any

    cdef int begin(self, In* source, const uint8_t* data, size_t size) except -1
    cdef bint add(self, Members* members) except -1
    cdef bint complete(self) except -1
    cdef bint _add_names(self, Text* text) except -1
    cdef bint _ids_fit(self) except -1


cdef str decoded(Text* text)
