from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext.log.author cimport Author
from ext.log.common cimport Common
from ext.log.home cimport Home
from ext.log.terms cimport Terms
from ext.text.output cimport Out
from ext.text.utf8 cimport Text
from ext.wire.publish cimport Parser


cdef class Place:
    cdef Home home
    cdef bytes opening              # start of the answer's body: see ext/net/published.pyx


cdef class Permit:
    cdef Common _common
    cdef Author _author
    cdef Terms _terms
    cdef readonly str app_id
    cdef bytes _head                # head of an answer, up to the number of Content-Length
    cdef bint _msgpack_in, _msgpack_out
    cdef readonly int64_t good_until_ms
    cdef object refuse
    cdef dict _places               # by the target of the request
    cdef uint64_t answered          # since the last look
    cdef bint named                 # of the last one staged: see Caller.expect

    cdef Place place(self, Text* target)
    cdef bytes stage(self, Place place, const uint8_t* body, size_t size, object completion)
    cdef bytes _stage(self, Home home, Parser parser, object completion)
    cdef bint _names_fit(self, Parser parser) except -1
    cdef int write_answer(self, Out* out, Place place, bytes message_id, uint64_t serial, str series, uint32_t first,
                          uint32_t count, bytes date, bint last) except -1
