from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t


cdef struct Hash:
    uint64_t low
    uint64_t high


cdef struct Slot:
    Hash hash
    uint64_t mark


cdef struct Table:
    Slot* slots                     # NULL while capacity is 0
    uint32_t capacity
    uint32_t used


cdef struct Bucket:                 # all zero: free for any number
    uint64_t number
    uint64_t used                   # ids in all its tables
    Table whole                     # until it is split
    Table* parts                    # NULL: it is not split


cdef class DedupWindow:
    cdef uint64_t _key0, _key1
    cdef uint64_t _window_ms, _width_ms
    cdef uint64_t _clock_ms         # the latest time that was told
    cdef uint64_t _forgotten        # ids let go since expire last said how many
    cdef uint64_t _count
    cdef Bucket* _buckets           # NULL while the window is empty; bucket n is at n % _bucket_count
    cdef uint32_t _bucket_count

    cdef Hash hash_of(self, const void* data, size_t size) noexcept nogil
    cdef void prefetch(self, Hash hash) noexcept nogil
    cdef bint holds(self, Hash hash) noexcept nogil
    cdef int take(self, Hash hash, uint64_t serial, uint32_t index) except -1
    cdef Hash _hash(self, str message_id) except *
    cdef Slot* _slot(self, Hash hash, Bucket** bucket) noexcept nogil
    cdef uint64_t _serial(self, const Bucket* bucket, const Slot* slot) noexcept nogil
    cdef object _answer(self, Hash hash)
    cdef uint64_t _oldest(self) noexcept nogil
    cdef void _advance(self, uint64_t now_ms) noexcept nogil
    cdef void _free_all(self) noexcept nogil
