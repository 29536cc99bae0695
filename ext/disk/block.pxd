"""Blocks for modules that avoid an object per entry: written (``encode_rows``), and read in place.

    open_block -> OpenBlock, then next_place -> Place as often as its count says, then end_block
                         or place_before -> Place, newest first, until there is none

All results borrow from the value. A ValueError says that it is not as it was written."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

cdef struct OpenBlock:
    size_t count                # of entries, at least one
    const uint8_t* series       # 8 characters
    const uint8_t* _serials
    const uint8_t* _previous
    const uint8_t* _sizes
    const uint8_t* _record      # the next one's
    const uint8_t* _end
    size_t _taken
    size_t _left                # for ``place_before``: the number of remaining entries, and the end of the last of them
    const uint8_t* _before

cdef struct Place:
    uint64_t serial
    uint64_t previous
    const uint8_t* record
    size_t size

cdef int open_block(OpenBlock* block, bytes key, bytes value) except -1
cdef int next_place(OpenBlock* block, Place* place) except -1
cdef int end_block(OpenBlock* block) except -1
cdef bint place_before(OpenBlock* block, Place* place) except? True
cdef struct Item:               # an entry to be written; the caller keeps the record alive
    uint64_t serial
    uint64_t previous
    const uint8_t* record
    size_t size

cdef int fill_item(Item* into, object entry) except -1
cdef size_t encode_rows(list rows, object family, const char* channel, size_t length, const char* series,
                        size_t series_length, const Item* items, size_t count, uint64_t before) except 0
