"""A growing output buffer, and writers for it: msgpack, JSON text, decimal numbers.

A failed allocation sets ``failed``, which is checked once, when the bytes are taken: so the writers need no error paths
of their own."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Malloc, PyMem_Realloc
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ext.text.words cimport ctz, eight_at, plain_block, unplain


cdef struct Out:
    uint8_t* data
    size_t size
    size_t room
    bint failed


cdef inline void out_init(Out* out, size_t room) noexcept:
    out.data = <uint8_t*>PyMem_Malloc(room)
    out.size = 0
    out.room = room
    out.failed = out.data is NULL


cdef inline bytes bytes_of(Out* out, str what):
    """The bytes written. Raises: MemoryError, if an allocation failed."""
    if out.failed:
        raise MemoryError(f"no memory for {what}")
    return PyBytes_FromStringAndSize(<char*>out.data, <Py_ssize_t>out.size)


cdef inline bint reserve(Out* out, size_t more) noexcept:
    cdef size_t room
    cdef uint8_t* grown
    if out.failed:
        return False
    if out.room - out.size < more:
        room = out.room * 2
        while room - out.size < more:
            room *= 2
        grown = <uint8_t*>PyMem_Realloc(out.data, room)
        if grown is NULL:
            out.failed = True
            return False
        out.data = grown
        out.room = room
    return True


cdef inline void put(Out* out, const void* data, size_t size) noexcept:
    if reserve(out, size):
        memcpy(out.data + out.size, data, size)
        out.size += size


cdef inline void put_byte(Out* out, uint8_t byte) noexcept:
    if reserve(out, 1):
        out.data[out.size] = byte
        out.size += 1


cdef inline void put_big_endian(Out* out, uint8_t kind, uint64_t value, int size) noexcept:
    cdef int i
    if reserve(out, <size_t>size + 1):
        out.data[out.size] = kind
        for i in range(size):
            out.data[out.size + 1 + i] = <uint8_t>(value >> (8 * (size - 1 - i)) & 255)
        out.size += <size_t>size + 1


cdef inline void put_str_header(Out* out, size_t size) noexcept:
    if size < 32:
        put_byte(out, <uint8_t>(0xa0 | size))
    elif size < 256:
        put_big_endian(out, 0xd9, size, 1)
    elif size < 65536:
        put_big_endian(out, 0xda, size, 2)
    else:
        put_big_endian(out, 0xdb, size, 4)


cdef inline void put_bin_header(Out* out, size_t size) noexcept:
    if size < 256:
        put_big_endian(out, 0xc4, size, 1)
    elif size < 65536:
        put_big_endian(out, 0xc5, size, 2)
    else:
        put_big_endian(out, 0xc6, size, 4)


cdef inline void put_array_header(Out* out, uint32_t count) noexcept:
    if count < 16:
        put_byte(out, <uint8_t>(0x90 | count))
    elif count < 65536:
        put_big_endian(out, 0xdc, count, 2)
    else:
        put_big_endian(out, 0xdd, count, 4)


cdef inline void put_map_header(Out* out, uint32_t count) noexcept:
    if count < 16:
        put_byte(out, <uint8_t>(0x80 | count))
    elif count < 65536:
        put_big_endian(out, 0xde, count, 2)
    else:
        put_big_endian(out, 0xdf, count, 4)


cdef inline void put_uint(Out* out, uint64_t value) noexcept:
    if value < 128:
        put_byte(out, <uint8_t>value)
    elif value < 256:
        put_big_endian(out, 0xcc, value, 1)
    elif value < 65536:
        put_big_endian(out, 0xcd, value, 2)
    elif value < 1 << 32:
        put_big_endian(out, 0xce, value, 4)
    else:
        put_big_endian(out, 0xcf, value, 8)


cdef inline void put_str(Out* out, const void* data, size_t size) noexcept:
    put_str_header(out, size)
    put(out, data, size)


cdef inline void put_decimal(Out* out, uint64_t value) noexcept:
    cdef uint8_t digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = <uint8_t>(c'0' + value % 10)
        value //= 10
        if value == 0:
            break
    put(out, digits + at, <size_t>(20 - at))


cdef inline uint8_t escape_of(uint8_t byte) noexcept nogil:
    """0: written as it is; otherwise the letter after the backslash, "u" for \\u00XX (RFC 8259, section 7)."""
    if byte >= c' ':
        return byte if byte == c'"' or byte == c'\\' else 0
    if byte == c'\b':
        return c'b'
    if byte == c'\t':
        return c't'
    if byte == c'\n':
        return c'n'
    if byte == c'\f':
        return c'f'
    if byte == c'\r':
        return c'r'
    return c'u'


cdef inline uint8_t hex_digit(uint8_t value) noexcept nogil:
    return c'0' + value if value < 10 else c'a' - 10 + value


cdef inline void put_json_text(Out* out, const uint8_t* text, size_t size) noexcept:
    """A JSON string, with quotes; ``text`` is UTF-8."""
    cdef size_t i = 0, start = 0
    cdef uint64_t found
    cdef uint8_t escape
    if not reserve(out, size + 2):
        return
    put_byte(out, c'"')
    while size - i >= 32 and plain_block(text + i):
        i += 32
    while i < size:
        if size - i >= 8:
            found = unplain(eight_at(text + i))
            if found == 0:
                i += 8
                continue
            i += <size_t>ctz(found) >> 3
        elif size >= 8 and unplain(eight_at(text + size - 8)) == 0:
            break                               # overlaps bytes already checked: the whole rest is plain
        escape = escape_of(text[i])
        if escape:
            put(out, text + start, i - start)
            put_byte(out, c'\\')
            put_byte(out, escape)
            if escape == c'u':
                put(out, b"00", 2)
                put_byte(out, hex_digit(text[i] >> 4))
                put_byte(out, hex_digit(text[i] & 15))
            start = i + 1
        i += 1
    put(out, text + start, size - start)
    put_byte(out, c'"')


cdef inline uint8_t base64_digit(uint32_t value) noexcept nogil:
    if value < 26:
        return <uint8_t>(c'A' + value)
    if value < 52:
        return <uint8_t>(c'a' - 26 + value)
    if value < 62:
        return <uint8_t>(c'0' - 52 + value)
    return c'+' if value == 62 else c'/'


cdef inline uint32_t base64_value(uint8_t digit) noexcept nogil:
    """The value of a base64 digit; above 63: not a digit."""
    if c'A' <= digit <= c'Z':
        return digit - c'A'
    if c'a' <= digit <= c'z':
        return digit - c'a' + 26
    if c'0' <= digit <= c'9':
        return digit - c'0' + 52
    return 62 if digit == c'+' else 63 if digit == c'/' else 255


cdef inline void put_base64(Out* out, const uint8_t* data, size_t size) noexcept:
    """Write as base64, in quotes."""
    cdef size_t i = 0, at
    cdef uint32_t group
    cdef uint8_t* to
    if not reserve(out, 2 + (size + 2) // 3 * 4):
        return
    to = out.data + out.size
    to[0] = c'"'
    at = 1
    while size - i >= 3:
        group = <uint32_t>data[i] << 16 | <uint32_t>data[i + 1] << 8 | data[i + 2]
        to[at] = base64_digit(group >> 18)
        to[at + 1] = base64_digit(group >> 12 & 63)
        to[at + 2] = base64_digit(group >> 6 & 63)
        to[at + 3] = base64_digit(group & 63)
        at += 4
        i += 3
    if size - i == 1:
        group = <uint32_t>data[i] << 16
        to[at] = base64_digit(group >> 18)
        to[at + 1] = base64_digit(group >> 12 & 63)
        to[at + 2] = to[at + 3] = c'='
        at += 4
    elif size - i == 2:
        group = <uint32_t>data[i] << 16 | <uint32_t>data[i + 1] << 8
        to[at] = base64_digit(group >> 18)
        to[at + 1] = base64_digit(group >> 12 & 63)
        to[at + 2] = base64_digit(group >> 6 & 63)
        to[at + 3] = c'='
        at += 4
    to[at] = c'"'
    out.size += at + 1
