# cython: language_level=3
"""The head of the usual request that publishes (RFC 9112), read strictly, where it lies.

    POST /channels/<one segment>/messages HTTP/1.1 CRLF        of visible ASCII, without a query
    <name>: <value> CRLF ...                                   tokens and ASCII text; none of those we read twice
    CRLF

    needed      Host; Content-Length, of at most 7 digits
    left to the library (False here)    anything to expect, to negotiate or to end by name; anything that is not as above

So this room refuses nothing, and what it takes the library for HTTP would take too, with the same meaning. Headers that a
publish does not look at are passed over, as they are there."""
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp, memset

from ext.text.utf8 cimport Text

cdef enum:
    MAX_HEADERS = 64            # the library reads more of them, if it likes
    MAX_DIGITS = 7

cdef uint8_t[256] KIND         # 1: of a token (RFC 9110, section 5.6.2); 2: of a value; 4: of a target
cdef int _byte
for _byte in range(256):
    KIND[_byte] = ((1 if chr(_byte).isalnum() and _byte < 128 or chr(_byte) in "!#$%&'*+-.^_`|~" else 0)
                   | (2 if 32 <= _byte <= 126 or _byte == c'\t' else 0)
                   | (4 if 33 <= _byte <= 126 and _byte != c'?' else 0))

cdef tuple NAMES = ("authorization", "x-ably-clientid", "x-ably-version", "accept", "content-type", "origin", "host",
                    "content-length", "connection")


cdef inline bint _is(const uint8_t* name, const char* wanted, size_t size) noexcept nogil:
    """In any case. ``wanted`` has letters in lower case, and hyphens, which have the bit set that a letter gets."""
    cdef size_t i
    for i in range(size):
        if name[i] | 32 != <uint8_t>wanted[i]:
            return False
    return True


cdef int _header(const uint8_t* name, size_t size) noexcept nogil:
    if size == 2:
        return H_UNUSUAL if _is(name, b"te", 2) else H_OTHER
    if size == 4:
        return H_HOST if _is(name, b"host", 4) else H_OTHER
    if size == 6:
        if _is(name, b"accept", 6):
            return H_ACCEPT
        if _is(name, b"origin", 6):
            return H_ORIGIN
        return H_UNUSUAL if _is(name, b"expect", 6) else H_OTHER
    if size == 7:
        return H_UNUSUAL if _is(name, b"upgrade", 7) or _is(name, b"trailer", 7) else H_OTHER
    if size == 10:
        return H_CONNECTION if _is(name, b"connection", 10) else H_OTHER
    if size == 12:
        return H_CONTENT_TYPE if _is(name, b"content-type", 12) else H_OTHER
    if size == 13:
        return H_AUTHORIZATION if _is(name, b"authorization", 13) else H_OTHER
    if size == 14:
        if _is(name, b"content-length", 14):
            return H_CONTENT_LENGTH
        return H_VERSION if _is(name, b"x-ably-version", 14) else H_OTHER
    if size == 15:
        return H_CLIENT_ID if _is(name, b"x-ably-clientid", 15) else H_OTHER
    if size == 16:
        return H_UNUSUAL if _is(name, b"content-encoding", 16) else H_OTHER
    if size == 17:
        return H_UNUSUAL if _is(name, b"transfer-encoding", 17) else H_OTHER
    return H_OTHER


cdef bint _read_target(const uint8_t* data, size_t size, Head* head) noexcept nogil:
    """``/channels/<channel>/messages``: then nothing but a publish can be meant by it."""
    cdef size_t at = 0
    while at < size and KIND[data[at]] & 4:
        at += 1
    if at < 19 or memcmp(data, b"/channels/", 10) != 0 or memcmp(data + at - 9, b"/messages", 9) != 0:
        return False
    if memchr(data + 10, c'/', at - 19) is not NULL:
        return False
    head.target.data = data
    head.target.size = at
    return True


cdef bint read_head(const uint8_t* data, size_t size, Head* head) noexcept nogil:
    """Is it such a head, from its first byte to the last one of its empty line? What it says points into ``data``."""
    cdef size_t at = 5, start, end
    cdef int header, count = 0
    memset(head, 0, sizeof(Head))
    if size < 5 or memcmp(data, b"POST ", 5) != 0 or not _read_target(data + 5, size - 5, head):
        return False
    at += head.target.size
    if size - at < 11 or memcmp(data + at, b" HTTP/1.1\r\n", 11) != 0:
        return False
    at += 11
    while True:
        if size - at < 2:
            return False
        if data[at] == c'\r':
            if data[at + 1] != c'\n' or at + 2 != size:
                return False
            head.size = size
            head.body = data + size
            return _fits(head)
        start = at
        while at < size and KIND[data[at]] & 1:
            at += 1
        if at == start or at == size or data[at] != c':' or count == MAX_HEADERS:
            return False
        count += 1
        header = _header(data + start, at - start)
        at += 1
        while at < size and (data[at] == c' ' or data[at] == c'\t'):
            at += 1
        start = at
        while at < size and KIND[data[at]] & 2:
            at += 1
        if size - at < 2 or data[at] != c'\r' or data[at + 1] != c'\n':
            return False
        end = at
        while end > start and (data[end - 1] == c' ' or data[end - 1] == c'\t'):
            end -= 1
        at += 2
        if header == H_OTHER:
            continue
        if header == H_UNUSUAL or head.value[header].data is not NULL:
            return False
        head.value[header].data = data + start
        head.value[header].size = end - start


cdef bint _fits(Head* head) noexcept nogil:
    """Host is there, the connection goes on, and the body has a length."""
    cdef Text* value = &head.value[H_CONNECTION]
    cdef size_t i
    if head.value[H_HOST].data is NULL:
        return False
    if value.data is not NULL and not (value.size == 10 and _is(value.data, b"keep-alive", 10)):
        return False
    value = &head.value[H_CONTENT_LENGTH]
    if value.data is NULL or not 0 < value.size <= MAX_DIGITS:
        return False
    for i in range(value.size):
        if not c'0' <= value.data[i] <= c'9':
            return False
        head.length = head.length * 10 + (value.data[i] - c'0')
    return True


cdef dict headers_of(Head* head):
    """Those that were sent of the headers that we read, by their names in lower case."""
    cdef dict headers = {}
    cdef int i
    for i in range(H_KNOWN):
        if head.value[i].data is not NULL:
            headers[NAMES[i]] = PyUnicode_DecodeASCII(<const char*>head.value[i].data, <Py_ssize_t>head.value[i].size, NULL)
    return headers


def parse_post(bytes head not None):
    """Target, headers (those that a publish looks at) and length of the body; None: it is not of the usual kind."""
    cdef Head found
    if not read_head(<const uint8_t*><const char*>head, <size_t>len(head), &found):
        return None
    target = PyUnicode_DecodeASCII(<const char*>found.target.data, <Py_ssize_t>found.target.size, NULL)
    return target, headers_of(&found), found.length
