"""A hash table with open addressing in Robin Hood order, for slots of any one size.

    slot    [ key ][ serial ][ further data ]     serial 0: it is free
    home    the key's upper 32 bits * capacity >> 32: capacity need not be a power of two, and tables grow in key order
    order   an item further from its home takes the slot of one that is nearer, which moves on

Keys must be evenly distributed. Small tables may be full, large ones to seven eighths: they double, and from
DOUBLING_CAPACITY on they grow by half. The owner allocates the table, because only it knows the further data."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    FULL_CAPACITY = 8           # tables of fewer slots may be full: a search ends after all of them
    DOUBLING_CAPACITY = 64
    LARGEST_SLOT = 40           # bytes


cdef struct Keyed:              # the beginning of each slot
    uint64_t key
    uint64_t serial


cdef struct Slots:
    uint8_t* data
    size_t size                 # of one slot: a compile-time constant where it is used
    uint32_t capacity


cdef inline Keyed* slot_at(Slots slots, uint32_t at) noexcept nogil:
    return <Keyed*>(slots.data + at * slots.size)


cdef inline uint32_t home_of(uint64_t key, uint32_t capacity) noexcept nogil:
    return <uint32_t>((key >> 32) * capacity >> 32)


cdef inline uint32_t _distance(Slots slots, uint32_t at) noexcept nogil:
    """Distance of the item in slot ``at`` from its home, around the end of the table."""
    cdef uint32_t home = home_of(slot_at(slots, at).key, slots.capacity)
    return at - home if at >= home else at + (slots.capacity - home)


cdef inline uint32_t _next(Slots slots, uint32_t at) noexcept nogil:
    return at + 1 if at + 1 < slots.capacity else 0


cdef inline Keyed* search(Slots slots, uint64_t key, const Keyed* last) noexcept nogil:
    """The next slot with this key after ``last``, which has the same key; NULL: the first one. Returns NULL if none."""
    cdef uint32_t at, distance = 0
    if slots.capacity == 0:
        return NULL
    if last is NULL:
        at = home_of(key, slots.capacity)
    else:
        at = <uint32_t>(<size_t>(<const uint8_t*>last - slots.data) // slots.size)
        distance = _distance(slots, at) + 1
        at = _next(slots, at)
    while slot_at(slots, at).serial != 0 and distance < slots.capacity:
        if slot_at(slots, at).key == key:
            return slot_at(slots, at)
        if _distance(slots, at) < distance:             # ours would have taken this slot from it
            return NULL
        at = _next(slots, at)
        distance += 1
    return NULL


cdef inline void put(Slots slots, Keyed* item) noexcept nogil:
    """Insert an item that is not in the table, which has a free slot; ``item`` is overwritten."""
    cdef uint8_t displaced[LARGEST_SLOT]
    cdef uint32_t at = home_of(item.key, slots.capacity), distance = 0, other
    while slot_at(slots, at).serial != 0:
        other = _distance(slots, at)
        if other < distance:
            memcpy(displaced, slot_at(slots, at), slots.size)
            memcpy(slot_at(slots, at), item, slots.size)
            memcpy(item, displaced, slots.size)
            distance = other
        at = _next(slots, at)
        distance += 1
    memcpy(slot_at(slots, at), item, slots.size)


cdef inline void take_out(Slots slots, const Keyed* slot) noexcept nogil:
    """Free a slot and move the following items one nearer to their homes, as if its item had never been there."""
    cdef uint32_t hole = <uint32_t>(<size_t>(<const uint8_t*>slot - slots.data) // slots.size), moved = 1
    cdef uint32_t at = _next(slots, hole)
    while moved < slots.capacity and slot_at(slots, at).serial != 0 and _distance(slots, at) > 0:
        memcpy(slot_at(slots, hole), slot_at(slots, at), slots.size)
        hole = at
        at = _next(slots, at)
        moved += 1
    slot_at(slots, hole).serial = 0


cdef inline bint has_room(uint32_t used, uint32_t capacity) noexcept nogil:
    """Is there space for one more?"""
    return used < capacity if capacity < FULL_CAPACITY else <uint64_t>(used + 1) * 8 <= <uint64_t>capacity * 7


cdef inline uint32_t grown(uint32_t capacity) noexcept nogil:
    """The next larger capacity."""
    return 1 if capacity == 0 else capacity * 2 if capacity < DOUBLING_CAPACITY else capacity + (capacity >> 1)
