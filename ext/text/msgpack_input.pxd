"""Read msgpack, an item at a time, without an object per item and never beyond the end.

    item   nil, bool, integer, float | str, bin, ext: with its bytes | array, map: only the number of items"""
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum Kind:
    I_BAD = 0               # incomplete, or invalid
    I_NIL = 1
    I_BOOL = 2
    I_UINT = 3
    I_NEGATIVE = 4          # number is its two's complement
    I_FLOAT = 5
    I_STR = 6
    I_BIN = 7
    I_ARRAY = 8
    I_MAP = 9
    I_EXT = 10              # of any type: its bytes, without the type


cdef struct In:
    const uint8_t* data
    size_t size
    size_t at


cdef struct Item:
    int kind
    uint64_t number
    double real
    const uint8_t* data
    size_t size             # bytes, or the number of items (or pairs) that follow


cdef inline uint64_t big_endian(const uint8_t* data, int size) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(size):
        value = value << 8 | data[i]
    return value


cdef inline int _sized(In* source, Item* item, int kind, int width) noexcept nogil:
    """Read a length of ``width`` bytes; for str, bin and ext also the bytes after it."""
    if source.size - source.at < <size_t>width:
        return I_BAD
    item.size = <size_t>big_endian(source.data + source.at, width)
    source.at += <size_t>width
    return _bytes(source, item, kind)


cdef inline int _bytes(In* source, Item* item, int kind) noexcept nogil:
    if kind == I_EXT:                           # preceded by a byte for the type
        if source.at >= source.size:
            return I_BAD
        source.at += 1
    if kind == I_STR or kind == I_BIN or kind == I_EXT:
        if item.size > source.size - source.at:
            return I_BAD
        item.data = source.data + source.at
        source.at += item.size
    return kind


cdef inline int read_item(In* source, Item* item) noexcept nogil:
    """The next item; returns its kind, also in ``item.kind``."""
    item.kind = _read_item(source, item)
    return item.kind


cdef inline int _read_item(In* source, Item* item) noexcept nogil:
    cdef uint8_t byte
    if source.at >= source.size:
        return I_BAD
    byte = source.data[source.at]
    source.at += 1
    if byte < 0x80:
        item.number = byte
        return I_UINT
    if byte < 0x90:
        item.size = byte & 15
        return I_MAP
    if byte < 0xa0:
        item.size = byte & 15
        return I_ARRAY
    if byte < 0xc0:
        item.size = byte & 31
        return _bytes(source, item, I_STR)
    if byte >= 0xe0:
        item.number = <uint64_t><int64_t><int8_t>byte
        return I_NEGATIVE
    if byte == 0xc0:
        return I_NIL
    if byte == 0xc2 or byte == 0xc3:
        item.number = byte & 1
        return I_BOOL
    if 0xc4 <= byte <= 0xc6:
        return _sized(source, item, I_BIN, 1 << (byte - 0xc4))
    if 0xd9 <= byte <= 0xdb:
        return _sized(source, item, I_STR, 1 << (byte - 0xd9))
    if 0xd4 <= byte <= 0xd8:
        item.size = <size_t>1 << (byte - 0xd4)
        return _bytes(source, item, I_EXT)
    if 0xc7 <= byte <= 0xc9:
        return _sized(source, item, I_EXT, 1 << (byte - 0xc7))
    if 0xdc <= byte <= 0xdd:
        return _sized(source, item, I_ARRAY, 2 << (byte - 0xdc))
    if 0xde <= byte <= 0xdf:
        return _sized(source, item, I_MAP, 2 << (byte - 0xde))
    if 0xca <= byte <= 0xd3:
        return _number(source, item, byte)
    return I_BAD


cdef inline int _number(In* source, Item* item, uint8_t byte) noexcept nogil:
    """The first byte gives kind and width: 0xca a float of 4, 0xcb of 8; from 0xcc on an integer of 1, 2, 4 or 8 bytes,
    from 0xd0 on with a sign."""
    cdef int width = 1 << (byte & 3), unused = 64 - 8 * width
    cdef uint32_t bits
    cdef float single
    if source.size - source.at < <size_t>width:
        return I_BAD
    item.number = big_endian(source.data + source.at, width)
    source.at += <size_t>width
    if byte == 0xcb:
        memcpy(&item.real, &item.number, 8)
        return I_FLOAT
    if byte == 0xca:
        bits = <uint32_t>item.number
        memcpy(&single, &bits, 4)
        item.real = single
        return I_FLOAT
    if byte < 0xd0:
        return I_UINT
    item.number = <uint64_t>(<int64_t>(item.number << unused) >> unused)        # sign extension
    return I_NEGATIVE if item.number >> 63 else I_UINT


cdef inline bint skip_item(In* source, uint64_t* items) noexcept nogil:
    """Skip one item with everything in it, including keys; adds their number to ``items``. False: incomplete or
    invalid."""
    cdef uint64_t left = 1
    cdef Item item
    while left:
        left -= 1
        items[0] += 1
        if read_item(source, &item) == I_BAD:
            return False
        if item.kind == I_ARRAY:
            left += item.size
        elif item.kind == I_MAP:
            left += 2 * <uint64_t>item.size
        if left > source.size - source.at:      # every item takes at least one byte
            return False
    return True
