"""Output of one socket alone: replies, a replay, the rest of a frame that was cut.

    data   | sent already | waiting       | free |
           0            start            end     room

Nothing is allocated while nothing waits: most connections are idle most of the time."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

cdef enum:
    OUTBOX_FIRST = 512                  # bytes; doubles as needed


cdef struct Outbox:
    uint8_t* data
    uint32_t start, end, room


cdef inline uint32_t waiting(const Outbox* box) noexcept nogil:
    """Bytes that wait."""
    return box.end - box.start


cdef inline int put_bytes(Outbox* box, const uint8_t* data, size_t size) except -1:
    """Raises: MemoryError; nothing has been put then."""
    cdef size_t held = waiting(box), room
    cdef uint8_t* grown
    if size == 0:                       # the payload of an empty ping is NULL
        return 0
    if size > (<size_t>1 << 31) - held:
        raise MemoryError("more than 2 GiB are queued for one socket")
    if box.start and (held == 0 or box.room - box.end < size):
        memmove(box.data, box.data + box.start, held)
        box.start = 0
        box.end = <uint32_t>held
    if box.room - box.end < size:
        room = box.room * 2 if box.room else OUTBOX_FIRST
        while room < held + size:
            room *= 2
        grown = <uint8_t*>realloc(box.data, room)
        if grown is NULL:
            raise MemoryError(f"no memory for {room} bytes to send")
        box.data = grown
        box.room = <uint32_t>room
    memcpy(box.data + box.end, data, size)
    box.end += <uint32_t>size
    return 0


cdef inline void take_bytes(Outbox* box, uint32_t size) noexcept nogil:
    """``size`` bytes have been sent."""
    box.start += size
    if box.start == box.end:
        free(box.data)                  # allocating another takes 50 ns
        box.data = NULL
        box.start = box.end = box.room = 0
