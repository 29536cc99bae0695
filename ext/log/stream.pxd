from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext.log.bag cimport Bag
from ext.log.budget cimport Piece
from ext.log.ring cimport Column, Ring


cdef struct Segment:
    Piece piece
    Segment* next
    uint64_t start          # place of its first byte in the stream
    uint32_t used
    uint32_t size
    uint8_t data[0]


cdef class Reader:
    cdef uint64_t place             # in its stream: what lies before it has been handed over


cdef class Stream(Column):
    cdef readonly Ring ring
    cdef readonly object encoder
    cdef public object shaper           # a Shaper: when its readers may be served; None: at any time
    cdef readonly uint64_t first        # number of the first entry that it has a frame of
    cdef readonly uint64_t head, tail   # bytes ever appended; first byte still held
    cdef readonly uint64_t allocated    # bytes of memory in segments
    cdef uint64_t* _offsets             # by slot: place of the frame's first byte
    cdef uint64_t _room                 # their number
    cdef uint64_t* _made                # replaces _offsets when the number of slots changes
    cdef uint64_t _made_room
    cdef Segment* _segments             # oldest
    cdef Segment* _last
    cdef Bag readers                    # Readers: the plane's subscriptions
    cdef bint moved                     # the plane has it in its list of streams to flush

    cdef int take(self, const uint8_t* frame, size_t length) except -1
    cdef Segment* segment_at(self, uint64_t place) noexcept nogil
    cdef uint64_t entry_at(self, uint64_t place) noexcept nogil
    cdef uint64_t start_of(self, uint64_t n) noexcept nogil
    cdef uint64_t run(self, uint64_t place, uint64_t budget, uint64_t skip_origin, uint64_t quiet_until,
                      uint64_t* start) noexcept nogil
    cdef void _drop_first(self) noexcept nogil
    cdef void _drop_read(self) noexcept
    cdef void _count(self, int64_t size) noexcept nogil
