"""An unordered, dense array of pointers. Iteration is fast, and so is removal, because each item knows its index.

    items    [ a ][ b ][ c ][ d ]  free             b is removed:  [ a ][ d ][ c ]     and d learns its new index, 1

A bag owns none of its items. To remove items during an iteration, iterate backwards: an item that moves has been
seen."""
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t
from libc.stdlib cimport realloc


cdef struct Bag:                # all zero: empty. The owner frees ``items``
    void** items
    uint32_t count, room


cdef inline int make_room(Bag* bag) except -1:
    """Make space for one more. Raises: MemoryError; nothing has changed then."""
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
    """Add an item, for which there must be space; returns its index."""
    bag.items[bag.count] = item
    bag.count += 1
    return bag.count - 1


cdef inline void* take_out(Bag* bag, uint32_t at) noexcept nogil:
    """Remove the item at this index. Returns the item that has moved there, or NULL."""
    bag.count -= 1
    if at == bag.count:
        return NULL
    bag.items[at] = bag.items[bag.count]
    return bag.items[at]
