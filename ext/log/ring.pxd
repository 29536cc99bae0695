from libc.stdint cimport uint32_t, uint64_t

from ext.log.budget cimport Budget, Holder, Piece


cdef struct Slot:
    uint64_t serial
    uint64_t origin         # its publisher (0: nobody in particular); compared, never interpreted
    uint32_t size           # bytes that the entry counts for
    uint32_t flags


cdef struct Run:            # successive entries, as one piece of the budget
    Piece piece
    Run* next
    uint64_t last           # number of its last entry
    uint64_t began          # serial of its first
    uint64_t bytes


cdef class Column(Holder):
    cdef int make_slots(self, uint64_t capacity) except -1
    cdef void use_made(self, uint64_t oldest, uint64_t newest, uint64_t mask) noexcept
    cdef void drop_made(self) noexcept
    cdef void trim(self) noexcept nogil


cdef class Ring(Holder):
    cdef readonly uint64_t oldest, newest, evicted, held_bytes
    cdef readonly Budget budget
    cdef Run* _runs                     # oldest
    cdef Run* _last_run
    cdef uint64_t _mask, _max_entries, _max_bytes
    cdef Slot* _slots
    cdef list _entries
    cdef readonly list streams          # its columns
    cdef readonly str series            # of entries that are only a record; None: entries are anything
    cdef object _earlier                # gives the series of entries up to _began, from before this series; or None
    cdef uint64_t _began

    cdef object entry_at(self, uint64_t n)
    cdef str series_at(self, uint64_t n)
    cdef int span_after(self, uint64_t cursor, uint64_t budget, uint64_t* first, uint64_t* last) except -1
    cdef bint is_replayed(self, uint64_t n, uint64_t skip_origin) noexcept nogil
    cdef int take(self, uint64_t serial, object entry, uint32_t size, uint64_t origin, uint32_t flags) except -1
    cdef uint64_t first_after(self, uint64_t cursor) noexcept nogil
    cdef int add(self, Column column) except -1
    cdef int _resize(self, uint64_t capacity) except -1
    cdef Run* _begin_run(self, uint64_t serial) except NULL
    cdef void _drop_run(self) noexcept
    cdef void _shrink(self) noexcept
    cdef void _evict(self) noexcept
