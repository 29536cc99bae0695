from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext.log.budget cimport Budget, Holder, Piece


cdef struct Slot:
    uint64_t serial
    uint64_t origin         # who published it (0: nobody in particular); compared, never interpreted
    uint32_t size           # bytes that the entry counts for
    uint32_t flags


cdef struct Run:            # entries that came one after the other, as one piece of the budget
    Piece piece
    Run* next
    uint64_t last           # number of its last entry
    uint64_t began          # serial of its first
    uint64_t bytes


cdef struct Segment:
    Piece piece
    Segment* next
    uint64_t start          # place of its first byte in the stream
    uint32_t used
    uint32_t size
    uint8_t data[0]


cdef class Reader:
    cdef uint64_t place             # in its stream: what lies before it has been handed over


cdef class Ring(Holder):
    cdef readonly uint64_t oldest, newest, evicted, held_bytes
    cdef readonly Budget budget
    cdef Run* _runs                     # oldest
    cdef Run* _last_run
    cdef uint64_t _mask, _max_entries, _max_bytes
    cdef Slot* _slots
    cdef list _entries
    cdef readonly list streams
    cdef readonly str series            # of entries that are a record alone; None: entries are anything
    cdef object _earlier                # tells that of one up to _began: it came before the series began; or None
    cdef uint64_t _began

    cdef object entry_at(self, uint64_t n)
    cdef str series_at(self, uint64_t n)
    cdef int span_after(self, uint64_t cursor, uint64_t budget, uint64_t* first, uint64_t* last) except -1
    cdef bint is_replayed(self, uint64_t n, uint64_t skip_origin) noexcept nogil
    cdef int take(self, uint64_t serial, object entry, uint32_t size, uint64_t origin, uint32_t flags) except -1
    cdef uint64_t first_after(self, uint64_t cursor) noexcept nogil
    cdef int _resize(self, uint64_t capacity) except -1
    cdef Run* _begin_run(self, uint64_t serial) except NULL
    cdef void _drop_run(self) noexcept
    cdef void _shrink(self) noexcept
    cdef void _evict(self) noexcept


cdef class Stream(Holder):
    cdef readonly Ring ring
    cdef readonly object encoder
    cdef public object shaper           # a Shaper: when its readers may be served; None: at any time
    cdef readonly uint64_t first        # number of the first entry that it has a frame of
    cdef readonly uint64_t head, tail   # bytes ever appended; first byte still held
    cdef readonly uint64_t allocated    # bytes of memory in segments
    cdef uint64_t* _offsets             # by slot: place of the frame's first byte
    cdef uint64_t _room                 # of them
    cdef uint64_t* _grown               # those that are about to take over, while slots become more or fewer
    cdef Segment* _segments             # oldest
    cdef Segment* _last
    cdef void** readers                 # Readers, which are the plane's subscriptions; dense, borrowed references
    cdef uint32_t reader_count, reader_room
    cdef bint moved                     # the plane has it in its list of streams to flush

    cdef int take(self, const uint8_t* frame, size_t length) except -1
    cdef Segment* segment_at(self, uint64_t place) noexcept nogil
    cdef uint64_t entry_at(self, uint64_t place) noexcept nogil
    cdef uint64_t start_of(self, uint64_t n) noexcept nogil
    cdef uint64_t run(self, uint64_t place, uint64_t budget, uint64_t skip_origin, uint64_t quiet_until,
                      uint64_t* start) noexcept nogil
    cdef void trim(self) noexcept nogil
    cdef void _drop_first(self) noexcept nogil
    cdef void _drop_read(self) noexcept
    cdef void _count(self, int64_t size) noexcept nogil
