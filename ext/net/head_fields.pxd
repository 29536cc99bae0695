"""Parse the head of an HTTP/1.1 request (RFC 9112) in place: its end, its first line, and its fields one by one.

    <method> <target> HTTP/1.1 CRLF         request_line: the target is visible ASCII
    <name>: <value> CRLF ...                next_field: tokens, and ASCII text without the blanks around it
    CRLF                                    head_end

Strict: any other form is MALFORMED, which means only that a library is to read the request."""
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from ext.net.kernel cimport memmem
from ext.text.utf8 cimport Text

cdef extern from * nogil:
    """
    /* What a byte may be part of. 1: a token (RFC 9110, section 5.6.2); 2: a value; 4: a target. */
    static const unsigned char HTTP_PART[256] = {
        ['\\t'] = 2, [' '] = 2, ['"'] = 6, ['('] = 6, [')'] = 6, [','] = 6, ['/'] = 6, [':' ... '@'] = 6,
        ['[' ... ']'] = 6, ['{'] = 6, ['}'] = 6, ['!'] = 7, ['#' ... '\\''] = 7, ['*' ... '+'] = 7,
        ['-' ... '.'] = 7, ['0' ... '9'] = 7, ['A' ... 'Z'] = 7, ['^' ... 'z'] = 7, ['|'] = 7, ['~'] = 7,
    };
    """
    const uint8_t* HTTP_PART

cdef enum:                      # character classes, see above
    OF_TOKEN = 1
    OF_VALUE = 2
    OF_TARGET = 4

cdef enum Step:
    FIELD = 0
    LAST = 1                    # it was the empty line, which ends the head
    MALFORMED = 2


cdef struct Field:
    Text name, value


cdef inline size_t head_end(const uint8_t* data, size_t size, size_t searched) noexcept nogil:
    """The size of the head with its empty line; 0: incomplete. No head ends within the first ``searched`` bytes."""
    cdef size_t start = searched - 3 if searched > 3 else 0
    cdef const uint8_t* found = <const uint8_t*>memmem(data + start, size - start, b"\r\n\r\n", 4)
    return 0 if found is NULL else <size_t>(found - data) + 4


cdef inline size_t request_line(const uint8_t* data, size_t size, const char* method, size_t length,
                                Text* target) noexcept nogil:
    """The size of the first line; 0: it is malformed. ``method``: with its space, ``length`` characters."""
    cdef size_t at = length
    if size < length or memcmp(data, method, length) != 0:
        return 0
    while at < size and HTTP_PART[data[at]] & OF_TARGET:
        at += 1
    if at == length or size - at < 11 or memcmp(data + at, b" HTTP/1.1\r\n", 11) != 0:
        return 0
    target.data = data + length
    target.size = at - length
    return at + 11


cdef inline Step next_field(const uint8_t* data, size_t size, size_t* place, Field* field) noexcept nogil:
    """Parse the line at ``place``, and advance ``place`` to the next one."""
    cdef size_t at = place[0], start = at
    if size - at < 2:
        return MALFORMED
    if data[at] == c'\r':
        return LAST if data[at + 1] == c'\n' and at + 2 == size else MALFORMED
    while at < size and HTTP_PART[data[at]] & OF_TOKEN:
        at += 1
    if at == start or at == size or data[at] != c':':
        return MALFORMED
    field.name.data = data + start
    field.name.size = at - start
    at += 1
    while at < size and (data[at] == c' ' or data[at] == c'\t'):
        at += 1
    start = at
    while at < size and HTTP_PART[data[at]] & OF_VALUE:
        at += 1
    if size - at < 2 or data[at] != c'\r' or data[at + 1] != c'\n':
        return MALFORMED
    place[0] = at + 2
    while at > start and (data[at - 1] == c' ' or data[at - 1] == c'\t'):
        at -= 1
    field.value.data = data + start
    field.value.size = at - start
    return FIELD


cdef inline str ascii_of(const Text* text):
    """The text as a str; it must be ASCII."""
    return PyUnicode_DecodeASCII(<const char*>text.data, <Py_ssize_t>text.size, NULL)
