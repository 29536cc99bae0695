from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef struct Print:
    uint32_t after          # its serial - the chunk's
    uint32_t sum


cdef struct Chunk:
    Chunk* younger
    uint64_t serial         # of the first
    uint32_t count, room
    Print prints[0]


cdef class Prints:
    cdef Chunk* _oldest
    cdef Chunk* _newest
    cdef Chunk* _before_newest      # links to the newest, which moves when it grows
    cdef uint64_t _last     # serial of the newest
    cdef uint64_t _count

    cdef int take(self, uint64_t serial, bytes record) except -1
    cdef Chunk* _resized(self, Chunk* chunk, uint32_t room) except NULL
    cdef uint64_t _newest_of(self, const Chunk* chunk) noexcept nogil
    cdef void _let_go(self) noexcept nogil
