from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext.net.permit cimport Permit, Place
from ext.net.room cimport Room

cdef enum:
    READING = 0
    ASKED = 1
    SENDING = 2
    CLOSED = 3
    ENDING = 4      # it has been refused: what still comes is thrown away


cdef class Caller:
    cdef list _told                 # of all that have something to say
    cdef int _fd
    cdef uint8_t _state
    cdef readonly bint trusted      # a key may come over it
    cdef bint _ended                # the peer will send no more
    cdef bint _touched, _queued     # it is in the list above; in that of those that have more to be read
    cdef uint32_t _at, _mask
    cdef readonly str peer
    cdef int64_t _since_ms          # of what it is doing: being idle, sending a request, taking an answer
    cdef uint8_t* _held
    cdef size_t _used, _room
    cdef Room _all                  # in which ``_room`` counts
    cdef size_t _searched           # bytes of ``held`` in which no head ends
    cdef size_t _wanted             # bytes of the request, once its head is there
    cdef size_t _taken              # bytes of the request that Python has been asked about
    # what to answer
    cdef Permit _permit
    cdef Place _place
    cdef bytes _message_id, _reply
    cdef bint _named                # the message had that id before it came; else the messages' begin with it
    cdef object _error
    cdef uint64_t _serial
    cdef str _series
    cdef uint32_t _first, _count
    cdef size_t _sent               # of ``reply``, while SENDING
    cdef size_t _thrown_away        # bytes, while ENDING

    cdef bint append(self, const uint8_t* data, size_t size, bint must) except -1
    cdef void drop(self, size_t size) noexcept
    cdef object whole_error(self)
    cdef int _touch(self) except -1
