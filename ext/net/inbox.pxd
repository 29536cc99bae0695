"""Input of one connection that has not been processed yet.

    data   |######## held ########|   free   |
           0                      size       room

Its capacity, ``room``, counts in a Room that all inboxes share. An empty inbox has no memory: most connections are idle
most of the time."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from ext.net.room cimport Room

cdef enum:
    MAX_AHEAD = 64 * 1024       # capacity beyond what has come


cdef struct Inbox:
    uint8_t* data
    size_t size, room


cdef inline bint hold_bytes(Inbox* box, Room shared, const uint8_t* data, size_t size, bint must) except -1:
    """Append these bytes. Returns False if there is no memory; never if they ``must`` be held."""
    cdef size_t room
    cdef uint8_t* grown
    if size == 0:
        return True
    if box.room - box.size < size:
        room = max(box.room * 2 if box.room < MAX_AHEAD else box.room + MAX_AHEAD, box.size + size)
        if not shared.take(box.room, room - box.room):
            if not must:
                return False
            shared.hold(room - box.room)
        grown = <uint8_t*>realloc(box.data, room)
        if grown is NULL:
            shared.release(room - box.room)
            raise MemoryError("no memory for a request")
        box.data = grown
        box.room = room
    memcpy(box.data + box.size, data, size)
    box.size += size
    return True


cdef inline void drop_bytes(Inbox* box, Room shared, size_t size) noexcept:
    """Remove the first bytes, which have been processed."""
    if size == 0:
        return
    box.size -= size
    if box.size:
        memmove(box.data, box.data + size, box.size)
    else:
        free(box.data)
        shared.release(box.room)
        box.data = NULL
        box.room = 0
