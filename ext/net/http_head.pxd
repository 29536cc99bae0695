from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from ext.text.utf8 cimport Text

cdef enum:
    # Headers that a publish uses. The first ones, with the target, decide who asks for what, and the answer's form.
    H_AUTHORIZATION = 0
    H_CLIENT_ID = 1
    H_VERSION = 2
    H_ACCEPT = 3
    H_CONTENT_TYPE = 4
    H_ORIGIN = 5
    H_DECIDING = 6              # their number
    H_HOST = 6
    H_CONTENT_LENGTH = 7
    H_CONNECTION = 8
    H_KNOWN = 9
    H_OTHER = 9
    H_UNUSUAL = 10


cdef struct Head:
    Text target
    Text value[H_KNOWN]         # data NULL: not sent
    size_t size                 # with its empty line; the body follows
    size_t length               # of the body
    const uint8_t* body


cdef bint read_head(const uint8_t* data, size_t size, Head* head) noexcept nogil
cdef dict headers_of(Head* head)
