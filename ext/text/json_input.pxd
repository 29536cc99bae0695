"""Read JSON text (RFC 8259), a token at a time, without an object per token and never beyond the end.

    blank | one byte of punctuation | null | an integer | a string: in place, or unescaped into ``scratch``

The caller handles nested values. Strings are not checked to be UTF-8."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ext.text.msgpack_input cimport In
from ext.text.output cimport Out, out_init
from ext.text.utf8 cimport Text
from ext.text.words cimport ctz, eight_at, plain_block, unplain

cdef extern from *:
    """
    static const unsigned char UNESCAPED[256] = {['"'] = '"', ['\\\\'] = '\\\\', ['/'] = '/', ['b'] = 8, ['f'] = 12,
                                                 ['n'] = 10, ['r'] = 13, ['t'] = 9};
    static const unsigned char HEX[256] = {
        [0 ... 255] = 16, ['0'] = 0, ['1'] = 1, ['2'] = 2, ['3'] = 3, ['4'] = 4, ['5'] = 5, ['6'] = 6, ['7'] = 7, ['8'] = 8,
        ['9'] = 9, ['a'] = 10, ['b'] = 11, ['c'] = 12, ['d'] = 13, ['e'] = 14, ['f'] = 15, ['A'] = 10, ['B'] = 11,
        ['C'] = 12, ['D'] = 13, ['E'] = 14, ['F'] = 15};
    """
    const uint8_t HEX[256]              # the value of a hexadecimal digit; 16: not a digit
    const uint8_t UNESCAPED[256]        # of the letter after a backslash; 0: it is u, or invalid


cdef inline void skip_blank(In* source) noexcept nogil:
    cdef uint8_t byte
    while source.at < source.size:
        byte = source.data[source.at]
        if byte != c' ' and byte != c'\n' and byte != c'\r' and byte != c'\t':
            return
        source.at += 1


cdef inline bint take(In* source, uint8_t byte) noexcept nogil:
    """Skip blanks and this byte, if it is the next one."""
    skip_blank(source)
    if source.at < source.size and source.data[source.at] == byte:
        source.at += 1
        return True
    return False


cdef inline bint take_null(In* source) noexcept nogil:
    skip_blank(source)
    if source.size - source.at >= 4 and memcmp(source.data + source.at, b"null", 4) == 0:
        source.at += 4
        return True
    return False


cdef inline bint take_whole(In* source, uint64_t* value) noexcept nogil:
    """A number without sign, fraction or exponent, of 18 digits at most; the slow path reads longer ones."""
    cdef size_t start
    cdef uint64_t total = 0
    skip_blank(source)
    start = source.at
    while source.at < source.size and c'0' <= source.data[source.at] <= c'9':
        if source.at - start == 18:
            return False
        total = total * 10 + (source.data[source.at] - c'0')
        source.at += 1
    if source.at == start or (source.data[start] == c'0' and source.at - start > 1):
        return False
    value[0] = total
    return source.at >= source.size or source.data[source.at] not in (c'.', c'E', c'e')


cdef inline size_t plain_run(const uint8_t* data, size_t at, size_t size) noexcept nogil:
    """The index, from ``at`` on, of the next control character, quote or backslash; ``size`` if there is none."""
    cdef uint64_t found
    while size - at >= 8:
        found = unplain(eight_at(data + at))
        if found:
            return at + (<size_t>ctz(found) >> 3)       # soon: most strings are short names
        at += 8
        while size - at >= 32 and plain_block(data + at):
            at += 32
    while at < size and data[at] >= c' ' and data[at] != c'"' and data[at] != c'\\':
        at += 1
    return at


cdef inline bint take_string(In* source, Text* text, Out* scratch, bint mend) noexcept:
    """A string without escapes stays in place; one with escapes is appended to ``scratch``, which never moves.

    Half a surrogate pair, which is left when text is cut within a character, has no UTF-8 form. With ``mend`` it is
    replaced with U+FFFD, as encoders of UTF-8 do; else the string is invalid."""
    cdef size_t start, at
    if not take(source, c'"'):
        return False
    start = source.at
    at = plain_run(source.data, start, source.size)
    if at >= source.size:
        return False
    if source.data[at] == c'\\':
        return _take_escaped(source, text, scratch, at, mend)
    if source.data[at] != c'"':
        return False
    text.data = source.data + start
    text.size = at - start
    source.at = at + 1
    return True


cdef inline bint _take_escaped(In* source, Text* text, Out* scratch, size_t at, bint mend) noexcept:
    """A string that begins at ``source.at`` and has its first backslash at ``at``."""
    cdef size_t start = source.at, run
    cdef uint8_t* to
    if scratch.data is NULL:
        # No string is longer than its source. So all of them fit, and strings returned before do not move.
        out_init(scratch, source.size)
        if scratch.failed:
            return False
    to = scratch.data + scratch.size
    text.data = to
    while True:
        run = at - start
        memcpy(to, source.data + start, run)
        to += run
        if at >= source.size:
            return False
        if source.data[at] == c'"':
            break
        if source.data[at] != c'\\':
            return False
        while at < source.size and source.data[at] == c'\\':       # often there are several
            if source.size - at > 1 and UNESCAPED[source.data[at + 1]]:
                to[0] = UNESCAPED[source.data[at + 1]]
                to += 1
                at += 2
            elif not _take_escape(source, &at, &to, mend):
                return False
        start = at
        at = plain_run(source.data, at, source.size)
    text.size = <size_t>(to - text.data)
    scratch.size += text.size
    source.at = at + 1
    return True


cdef inline bint _take_escape(In* source, size_t* place, uint8_t** to, bint mend) noexcept nogil:
    """One \\u escape, whose backslash is at ``place``."""
    cdef size_t at = place[0] + 1
    cdef int code, low
    if source.size - at < 5 or source.data[at] != c'u':
        return False
    code = _hex4(source.data + at + 1)
    at += 5
    if code < 0:
        return False
    if 0xD800 <= code <= 0xDFFF:
        low = -1
        if code <= 0xDBFF and source.size - at >= 6 and source.data[at] == c'\\' and source.data[at + 1] == c'u':
            low = _hex4(source.data + at + 2)
        if 0xDC00 <= low <= 0xDFFF:
            at += 6
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        elif mend:
            code = 0xFFFD
        else:
            return False
    to[0] = _write_utf8(to[0], <uint32_t>code)
    place[0] = at
    return True


cdef inline int _hex4(const uint8_t* at) noexcept nogil:
    """The value of four hexadecimal digits; -1: they are not."""
    cdef int a = HEX[at[0]], b = HEX[at[1]], c = HEX[at[2]], d = HEX[at[3]]
    return -1 if (a | b | c | d) & 16 else a << 12 | b << 8 | c << 4 | d


cdef inline uint8_t* _write_utf8(uint8_t* to, uint32_t code) noexcept nogil:
    if code < 0x80:
        to[0] = <uint8_t>code
        return to + 1
    if code < 0x800:
        to[0] = <uint8_t>(0xC0 | code >> 6)
        to[1] = <uint8_t>(0x80 | code & 63)
        return to + 2
    if code < 0x10000:
        to[0] = <uint8_t>(0xE0 | code >> 12)
        to[1] = <uint8_t>(0x80 | code >> 6 & 63)
        to[2] = <uint8_t>(0x80 | code & 63)
        return to + 3
    to[0] = <uint8_t>(0xF0 | code >> 18)
    to[1] = <uint8_t>(0x80 | code >> 12 & 63)
    to[2] = <uint8_t>(0x80 | code >> 6 & 63)
    to[3] = <uint8_t>(0x80 | code & 63)
    return to + 4
