"""Pointers in no order, close together: to go over them is fast, and so is to leave, for each knows where it stands.

    items    [ a ][ b ][ c ][ d ]  room left        b leaves:  [ a ][ d ][ c ]     and d has to know that it stands at 1 now

A bag owns none of them. Who goes over it while some leave begins with the last one: whoever moves has been seen."""
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t
from libc.stdlib cimport realloc


cdef struct Bag:                # all zero: it is empty. ``items`` is its owner's to free
    void** items
    uint32_t count, room


cdef inline int make_room(Bag* bag) except -1:
    """For one more. Raises: MemoryError; then nothing has changed."""
    cdef void** grown
    cdef uint32_t wanted
    if bag.count == bag.room:
        wanted = bag.room * 2 if bag.room else 1
        grown = <void**>realloc(bag.items, <size_t>wanted * sizeof(void*))
        if grown is NULL:
            raise MemoryError(f"no memory for {wanted} pointers")
        bag.items = grown
        bag.room = wanted
    return 0


cdef inline uint32_t put(Bag* bag, void* item) noexcept nogil:
    """Where it stands. There has to be room."""
    bag.items[bag.count] = item
    bag.count += 1
    return bag.count - 1


cdef inline void* take_out(Bag* bag, uint32_t at) noexcept nogil:
    """Of the one that stands there; who stands there now, or NULL."""
    bag.count -= 1
    if at == bag.count:
        return NULL
    bag.items[at] = bag.items[bag.count]
    return bag.items[at]
