"""Text in place, as bytes; and whether it is UTF-8, for every text frame and every string in a record."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from ext.text.words cimport ascii_block, eight_at, is_ascii


cdef struct Text:
    const uint8_t* data         # NULL: no text; never NULL for the empty text
    size_t size


cdef inline bint is_utf8(const uint8_t* data, size_t size) noexcept nogil:
    """Well-formed UTF-8: no surrogates, nothing overlong, nothing above U+10FFFF (Unicode, table 3-7)."""
    cdef size_t i = 0
    cdef uint8_t a, b
    while size - i >= 32 and ascii_block(data + i):
        i += 32
    while i < size:
        if size - i >= 8:
            if is_ascii(eight_at(data + i)):
                i += 8
                continue
        elif size >= 8 and is_ascii(eight_at(data + size - 8)):
            return True                 # overlaps bytes already checked: the whole rest
        a = data[i]
        if a < 0x80:
            i += 1
        elif 0xC2 <= a <= 0xDF:
            if size - i < 2 or data[i + 1] & 0xC0 != 0x80:
                return False
            i += 2
        elif 0xE0 <= a <= 0xEF:
            if size - i < 3 or data[i + 1] & 0xC0 != 0x80 or data[i + 2] & 0xC0 != 0x80:
                return False
            b = data[i + 1]
            if (a == 0xE0 and b < 0xA0) or (a == 0xED and b > 0x9F):
                return False
            i += 3
        elif 0xF0 <= a <= 0xF4:
            if (size - i < 4 or data[i + 1] & 0xC0 != 0x80 or data[i + 2] & 0xC0 != 0x80
                    or data[i + 3] & 0xC0 != 0x80):
                return False
            b = data[i + 1]
            if (a == 0xF0 and b < 0x90) or (a == 0xF4 and b > 0x8F):
                return False
            i += 4
        else:
            return False
    return True
