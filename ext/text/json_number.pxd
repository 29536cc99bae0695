"""A number in JSON text (RFC 8259): (-)digits * 10 ** exponent, as far as 64 bits suffice.

    -12.50e3   negative, digits 1250, exponent 3 - 2"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

from ext.text.msgpack_input cimport In

cdef enum:
    EXPONENT_DIGITS = 9         # more are beyond the range of a double


cdef struct Number:
    uint64_t digits
    int64_t exponent
    bint negative
    bint is_whole               # it has neither fraction nor exponent
    bint is_exact               # digits and exponent are complete


cdef inline bint is_quick(const Number* number) noexcept nogil:
    """Is it an integer, or a quotient of two numbers that a double holds exactly?"""
    return number.is_exact and (number.is_whole or (number.digits <= <uint64_t>1 << 53 and -22 <= number.exponent <= 22))


cdef inline size_t _take_digits(const uint8_t* data, size_t at, size_t size, Number* number) noexcept nogil:
    """Append digits while 64 bits hold them. Returns the index after them."""
    cdef uint64_t digits = number.digits
    cdef uint8_t digit
    while at < size:
        digit = data[at] - c'0'
        if digit > 9:
            break
        if digits >= 1844674407370955161u and (digits > 1844674407370955161u or digit > 5):
            number.is_exact = False
            while at < size and c'0' <= data[at] <= c'9':
                at += 1
            break
        digits = digits * 10 + digit
        at += 1
    number.digits = digits
    return at


cdef inline size_t _take_exponent(const uint8_t* data, size_t at, size_t size, bint down, Number* number) noexcept nogil:
    """Add the written exponent. Returns the index after it."""
    cdef size_t start = at
    cdef int64_t exponent = 0
    cdef uint8_t digit
    while at < size:
        digit = data[at] - c'0'
        if digit > 9:
            break
        if at - start < EXPONENT_DIGITS:
            exponent = exponent * 10 + digit
        else:
            number.is_exact = False
        at += 1
    number.exponent += -exponent if down else exponent
    return at


cdef inline bint take_number(In* source, Number* number) noexcept nogil:
    """Skip a number. False: it is invalid, and ``source`` is at the error."""
    cdef const uint8_t* data = source.data
    cdef size_t at = source.at, size = source.size, start
    number.is_exact = number.is_whole = True
    number.negative = data[at] == c'-'
    number.digits = 0
    number.exponent = 0
    start = at + number.negative
    at = _take_digits(data, start, size, number)
    if at == start or (data[start] == c'0' and at - start > 1):
        source.at = start
        return False
    if at < size and data[at] == c'.':
        number.is_whole = False
        start = at + 1
        at = _take_digits(data, start, size, number)
        number.exponent = -<int64_t>(at - start)
        if at == start:
            source.at = at
            return False
    if at < size and data[at] | 32 == c'e':                 # in lower case
        number.is_whole = False
        start = at + 1
        if start < size and (data[start] == c'+' or data[start] == c'-'):
            start += 1
        at = _take_exponent(data, start, size, data[start - 1] == c'-', number)
        if at == start:
            source.at = at
            return False
    source.at = at
    return True
