from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.log.id_runs cimport Runs
from ext.log.robin_hood cimport Keyed
from ext.text.siphash cimport Hash


cdef struct Slot:
    Keyed keyed                     # by the low half of the id's hash
    uint64_t high                   # the high half, with the index in the lowest bits


cdef struct Table:
    Slot* slots                     # NULL while capacity is 0
    uint32_t capacity
    uint32_t used


cdef struct Bucket:                 # all zero: free for any number
    uint64_t number
    uint32_t used                   # ids in the whole bucket
    uint32_t strays                 # counted ids in its tables, for which the runs had no place
    Runs* runs                      # counted ids; NULL: none
    Table whole                     # all other ids, until it is split
    Table* parts                    # NULL: it is not split


cdef struct Id:                     # a message id, and what is known about it
    const uint8_t* data             # UTF-8; borrowed
    size_t size
    uint64_t origin, number, index  # of a counted id
    Hash hash                       # of the whole id, once it was needed
    bint is_counted, is_hashed


cdef struct Found:                  # where an id is held
    Bucket* bucket
    Slot* slot                      # NULL: in a run
    uint64_t serial
    uint32_t index
    uint32_t width                  # of the publish that it is part of; in a table, 1


cdef class DedupWindow:
    cdef uint64_t _key0, _key1
    cdef uint64_t _window_ms, _width_ms
    cdef uint64_t _clock_ms         # the latest time given
    cdef uint64_t _forgotten        # ids forgotten since expire last returned their number
    cdef uint64_t _count
    cdef Bucket* _buckets           # NULL while the window is empty; bucket n is at n % _bucket_count
    cdef uint32_t _bucket_count

    cdef Hash hash_of(self, const void* data, size_t size) noexcept nogil
    cdef Id id_of(self, const uint8_t* data, size_t size) noexcept nogil
    cdef void prefetch(self, Id* id) noexcept nogil
    cdef bint holds(self, Id* id) noexcept nogil
    cdef bint holds_some(self, Id* id, uint32_t width) noexcept nogil
    cdef int take(self, Id* id, uint64_t serial, uint32_t index, uint64_t at_ms) except -1
    cdef int take_all(self, Id* id, uint32_t width, uint64_t serial, uint64_t at_ms) except -1
    cdef int put(self, Id* id, uint32_t width, uint64_t serial, uint32_t index, uint64_t at_ms) noexcept nogil
    cdef Id _id(self, str message_id) except *
    cdef void _hash(self, Id* id) noexcept nogil
    cdef bint _find(self, Id* id, Found* found) noexcept nogil
    cdef Bucket* _bucket_at(self, uint64_t at_ms) noexcept nogil
    cdef int _put_strays(self, Bucket* bucket, Id* id, uint32_t width, uint64_t serial) noexcept nogil
    cdef object _answer(self, Id* id)
    cdef void _drop(self, Found* found, Id* id) noexcept nogil
    cdef uint64_t _oldest(self) noexcept nogil
    cdef void _advance(self, uint64_t at_ms) noexcept nogil
    cdef void _free_all(self) noexcept nogil


cdef inline Id counted_id(uint64_t origin, uint64_t number, const uint8_t* data, size_t size) noexcept nogil:
    """The id <connection id>:<number>:0, with the parts that ``ext.log.id_runs.is_counted`` would find."""
    cdef Id id
    id.data = data
    id.size = size
    id.origin = origin
    id.number = number
    id.index = 0
    id.is_counted = True
    id.is_hashed = False
    return id
