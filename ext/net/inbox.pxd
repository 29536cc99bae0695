"""What one connection has sent, as long as nobody has dealt with it.

    data   |######## held ########|   room left   |
           0                      size            room

Its ``room`` counts in a Room that all of them share; there is none while nothing is held: most connections are idle
most of the time."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from ext.net.room cimport Room

cdef enum:
    MAX_AHEAD = 64 * 1024       # of room for more than has come


cdef struct Inbox:
    uint8_t* data
    size_t size, room


cdef inline bint hold_bytes(Inbox* box, Room shared, const uint8_t* data, size_t size, bint must) except -1:
    """Hold these too, behind the others; False: there is no room for them. There is, if they ``must`` be held."""
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
    """The first ones of what is held have been dealt with."""
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
