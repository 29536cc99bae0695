# cython: language_level=3
"""Parse the head of a usual publish request (RFC 9112) strictly and in place.

    POST /channels/<one segment>/messages HTTP/1.1 CRLF        visible ASCII, without a query
    <name>: <value> CRLF ...                                   tokens and ASCII text; none that we read occurs twice
    CRLF

    required    Host; Content-Length, of at most 7 digits
    left to the library (False here)    expectations, negotiation, named connection options; any other form

So this module refuses nothing. Each request that it takes, the HTTP library would take too, with the same meaning.
Headers that a publish does not use are ignored, as in the library."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp, memset

from ext.net.head_fields cimport FIELD, LAST, Field, Step, ascii_of, next_field, request_line
from ext.text.utf8 cimport Text

cdef enum:
    MAX_HEADERS = 64            # with more, the library decides
    MAX_DIGITS = 7

cdef tuple NAMES = ("authorization", "x-ably-clientid", "x-ably-version", "accept", "content-type", "origin", "host",
                    "content-length", "connection")


cdef inline bint _is(const uint8_t* name, const char* wanted, size_t size) noexcept nogil:
    """Compare, ignoring case. ``wanted`` has lower-case letters and hyphens, which have the lower-case bit set too."""
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


cdef bint _publishes(const Text* target) noexcept nogil:
    """Is it ``/channels/<channel>/messages``? With POST, that can only be a publish."""
    if target.size < 19 or memcmp(target.data, b"/channels/", 10) != 0:
        return False
    if memcmp(target.data + target.size - 9, b"/messages", 9) != 0:
        return False
    return (memchr(target.data + 10, c'/', target.size - 19) is NULL
            and memchr(target.data + 10, c'?', target.size - 19) is NULL)


cdef bint read_head(const uint8_t* data, size_t size, Head* head) noexcept nogil:
    """Are these bytes, from the first to the end of the empty line, such a head? Its fields point into ``data``."""
    cdef size_t at
    cdef int header, count = 0
    cdef Field field
    cdef Step step
    memset(head, 0, sizeof(Head))
    at = request_line(data, size, b"POST ", 5, &head.target)
    if at == 0 or not _publishes(&head.target):
        return False
    while True:
        step = next_field(data, size, &at, &field)
        if step == LAST:
            head.size = size
            head.body = data + size
            return _fits(head)
        if step != FIELD or count == MAX_HEADERS:
            return False
        count += 1
        header = _header(field.name.data, field.name.size)
        if header == H_OTHER:
            continue
        if header == H_UNUSUAL or head.value[header].data is not NULL:
            return False
        head.value[header] = field.value


cdef bint _fits(Head* head) noexcept nogil:
    """Is Host present, does the connection go on, and does the body have a length?"""
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
    """The headers that we read and that were sent, by their names in lower case."""
    cdef dict headers = {}
    cdef int i
    for i in range(H_KNOWN):
        if head.value[i].data is not NULL:
            headers[NAMES[i]] = ascii_of(&head.value[i])
    return headers


def parse_post(bytes head not None):
    """Target, headers (those that a publish uses) and length of the body; None: not of the usual kind."""
    cdef Head found
    if not read_head(<const uint8_t*><const char*>head, <size_t>len(head), &found):
        return None
    return ascii_of(&found.target), headers_of(&found), found.length
