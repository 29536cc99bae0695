# cython: language_level=3
"""Decode percent-encoding (RFC 3986, 2.1) to bytes: paths, queries and forms."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t


cdef inline int _hex(uint8_t digit) noexcept nogil:
    if c'0' <= digit <= c'9':
        return digit - c'0'
    digit |= 32                 # a letter in lower case
    return digit - c'a' + 10 if c'a' <= digit <= c'f' else -1


def unquote(bytes text not None, *, bint plus=False):
    """Decode. An invalid escape stays as it is. With ``plus``, a plus is a blank, as in queries and forms."""
    cdef size_t size = <size_t>len(text), at = 0, to = 0
    cdef const uint8_t* source = <const uint8_t*><const char*>text
    cdef bytes plain = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef uint8_t* out = <uint8_t*><char*>plain
    cdef int high, low
    while at < size:
        if source[at] == c'%' and size - at > 2:
            high = _hex(source[at + 1])
            low = _hex(source[at + 2])
            if high >= 0 and low >= 0:
                out[to] = <uint8_t>(high << 4 | low)
                to += 1
                at += 3
                continue
        out[to] = c' ' if plus and source[at] == c'+' else source[at]
        to += 1
        at += 1
    return plain if to == size else plain[:<Py_ssize_t>to]
