from libc.stdint cimport uint32_t, uint64_t

from ext.net.permit cimport Permit, Place
from ext.text.output cimport Out


cdef class Answer:
    cdef bytes _response            # the complete response; None: it is that of a publish, from the fields below
    cdef Permit _permit
    cdef Place _place
    cdef bytes _message_id
    cdef bint _named                # the message came with that id; else it is the prefix of the messages' ids
    cdef object _error
    cdef uint64_t _serial
    cdef str _series
    cdef uint32_t _first, _count

    cdef void respond(self, bytes response) noexcept
    cdef void expect(self, Permit permit, Place place, bytes message_id, bint named) noexcept
    cdef void accept(self, uint64_t serial, str series, uint32_t first, uint32_t count) noexcept
    cdef void refuse(self, object error) noexcept
    cdef Permit write(self, Out* out, bytes date, bint last)
    cdef object _whole_error(self)
