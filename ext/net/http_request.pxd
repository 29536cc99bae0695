"""A request that arrives in pieces: is it complete, and is it of the usual kind?

    |############ head ############|######## body ########|
    0        searched              head.size              wanted

No byte is searched twice, however small the pieces are."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from ext.net.head_fields cimport head_end
from ext.net.http_head cimport Head, read_head

cdef enum Found:
    PART = 0                # incomplete
    WHOLE = 1
    UNUSUAL = 2             # to be read by the library


cdef struct Progress:
    size_t searched         # bytes in which no head ends
    size_t wanted           # size of the request, once its head is there; else 0


cdef inline Found read_request(Progress* progress, const uint8_t* data, size_t size, size_t max_head, size_t max_body,
                               Head* head) noexcept nogil:
    """Look at all that has come of the request. If it is WHOLE, ``head`` describes it, and the next request follows.

    Args:
        max_head, max_body: bytes; a larger request is UNUSUAL."""
    cdef size_t end
    if size < progress.wanted:
        return PART
    if memcmp(data, b"POST ", size if size < 5 else 5) != 0:
        return UNUSUAL
    end = head_end(data, size, progress.searched)
    if end == 0:
        progress.searched = size
        return UNUSUAL if size > max_head else PART
    if end > max_head or not read_head(data, end, head) or head.length > max_body:
        return UNUSUAL
    if size - end < head.length:
        progress.searched = end - 4
        progress.wanted = end + head.length
        return PART
    progress.searched = progress.wanted = 0
    return WHOLE
