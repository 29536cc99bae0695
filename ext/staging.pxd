"""What every room that stages plain publishes does with the ids of their messages."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.dedup cimport DedupWindow

cdef enum:
    LONGEST_INDEX = 3           # digits: a publish has 1000 messages at most


cdef inline size_t decimal(uint8_t* to, uint64_t value) noexcept nogil:
    """Write the number; how many digits it has (20 at most)."""
    cdef uint8_t digits[20]
    cdef size_t size = 0, i
    while True:
        digits[size] = <uint8_t>(48 + value % 10)
        value //= 10
        size += 1
        if value == 0:
            break
    for i in range(size):
        to[i] = digits[size - 1 - i]
    return size


cdef inline bint remember(DedupWindow dedup, uint32_t count, uint64_t serial, uint8_t* base, size_t size) except? True:
    """Take the ids ``<base><index>`` of a publish into the window, all of them or none: False, one is there already.
    Behind ``base`` there is room for an index."""
    cdef uint32_t index
    for index in range(count):
        if dedup.holds(dedup.hash_of(base, size + decimal(base + size, index))):
            return False
    for index in range(count):
        dedup.take(dedup.hash_of(base, size + decimal(base + size, index)), serial, index)
    return True
