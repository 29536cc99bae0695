# cython: language_level=3
"""Serials, series and connection ids: their arithmetic, and their texts, which sort in the same order.

    serial            [ 48 bits: milliseconds since 1970 ][ 16 bits: counter ]     unsigned, 64 bits
    serial text       001700000000123-00042@k3J9s0fA          30 characters; the wire's channelSerial
                      '- 15 digits -' '---' '- 8 --'          milliseconds, counter, series
    message serial    001700000000123-00042@k3J9s0fA:007      and the message's index in its entry, 0 to 999
    connection id     hZ2kQ9w1Ab                              60 bits in 10 characters of base64url, the highest first

Every value has exactly one text, and every accepted text has one value. A text of another length, range or alphabet is
refused with the reason."""
cimport cython
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void* PyUnicode_1BYTE_DATA(object text)

cdef enum:
    LARGEST_INDEX = 999             # an entry has at most 1,000 messages
    NO_DIGIT = 0xFF

cdef uint64_t LARGEST_MS = (<uint64_t>1 << 48) - 1          # in the year 10889
cdef uint64_t SERIES_COUNT = 218340105584896                 # 62**8; as a literal, because C's power is a double
cdef uint64_t LARGEST_ORIGIN = (<uint64_t>1 << 60) - 1

# "00", "01", ... "99": two digits per division, which compiles to a multiplication.
cdef const char* PAIRS = (
    b"0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
    b"5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899")

cdef const char* BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
cdef uint8_t VALUES[256]            # the inverse of BASE64URL; values below 62 are also the alphabet of a series

cdef void _fill_values() noexcept:
    cdef int i
    for i in range(256):
        VALUES[i] = NO_DIGIT
    for i in range(64):
        VALUES[<uint8_t>BASE64URL[i]] = <uint8_t>i

_fill_values()


@cython.final
cdef class SerialClock:
    """Gives out serials that only grow, whatever the wall clock does.

    When the wall clock stands still or steps back, or more than 65,536 serials fall into one millisecond, the next
    serial is the last one plus 1. The counter then carries into the milliseconds, and serials are ahead of the wall
    clock until it has caught up. When the wall clock jumps ahead, so do the serials, and they stay there.
    """
    def __cinit__(self, last=0):
        self._last = _unsigned(last, "last", UINT64_MAX)

    @property
    def last(self):
        """The newest serial that was given out or restored; 0: none."""
        return self._last

    def next(self, now_ms):
        """The serial of an entry that is accepted at ``now_ms`` (milliseconds since 1970), greater than all before it.

        Raises: ValueError, now_ms is negative or has more than 48 bits; OverflowError, the largest 64-bit number has
        been given out. In both cases ``last`` does not change.
        """
        return self.take(_unsigned(now_ms, "now_ms", LARGEST_MS))

    cdef uint64_t take(self, uint64_t now_ms) except 0:
        """Like ``next``, for callers that ensure that ``now_ms`` has at most 48 bits."""
        cdef uint64_t serial = serial_of(now_ms, 0)
        if serial <= self._last:
            if self._last == UINT64_MAX:
                raise OverflowError(f"no serial is left after {self._last}")
            serial = self._last + 1
        self._last = serial
        return serial

    def restore(self, serial):
        """Never give out ``serial`` or a smaller one: it is in a journal already."""
        cdef uint64_t known = _unsigned(serial, "serial", UINT64_MAX)
        if known > self._last:
            self._last = known

    def end_millisecond(self):
        """Never give out another serial of the millisecond of ``last``."""
        self._last |= COUNTER_MASK


def serial_ms(serial):
    """The milliseconds in a serial."""
    return serial >> COUNTER_BITS


def first_serial(ms):
    """The first serial of a millisecond. For any value of ms: beyond the range of times it has more than 64 bits."""
    return ms << COUNTER_BITS


def last_serial_before(ms):
    """The last serial before those of a millisecond; 0: none."""
    return (ms << COUNTER_BITS) - 1 if ms > 0 else 0


cdef inline void _write_pair(char* out, uint32_t value) noexcept nogil:
    memcpy(out, PAIRS + 2 * value, 2)                   # value < 100: every caller passes a remainder


@cython.cdivision(True)         # every operand is unsigned and every divisor a constant: no checks are needed
cdef int write_serial(char* out, uint64_t serial) noexcept nogil:
    """Write ``<15 digits>-<5 digits>``, without a terminating zero; returns the number of characters, always 21."""
    cdef uint64_t ms = ms_of(serial)                                 # at most 15 digits: 2**48 < 10**15
    cdef uint32_t counter = <uint32_t>counter_of(serial)
    cdef uint32_t high = <uint32_t>(ms // 100000000)                 # 7 digits and 8: both halves fit 32 bits
    cdef uint32_t low = <uint32_t>(ms % 100000000)
    out[0] = <char>(c"0" + high // 1000000)
    _write_pair(out + 1, high // 10000 % 100)
    _write_pair(out + 3, high // 100 % 100)
    _write_pair(out + 5, high % 100)
    _write_pair(out + 7, low // 1000000)
    _write_pair(out + 9, low // 10000 % 100)
    _write_pair(out + 11, low // 100 % 100)
    _write_pair(out + 13, low % 100)
    out[15] = c"-"
    out[16] = <char>(c"0" + counter // 10000)
    _write_pair(out + 17, counter // 100 % 100)
    _write_pair(out + 19, counter % 100)
    return SERIAL_LENGTH


cdef inline bint _read_digits(const char* text, int count, uint64_t* value) noexcept nogil:
    """The value of ``count`` (at most 15) digits; False if another character is among them."""
    cdef int i
    cdef uint32_t digit
    value[0] = 0
    for i in range(count):
        digit = <uint32_t><uint8_t>text[i] - <uint32_t>c"0"         # wraps below "0", so one comparison is enough
        if digit > 9:
            return False
        value[0] = value[0] * 10 + digit
    return True


cdef inline bint _is_series(const char* text) noexcept nogil:
    """Are the next 8 characters letters and digits?"""
    cdef int i
    for i in range(SERIES_LENGTH):
        if VALUES[<uint8_t>text[i]] >= 62:
            return False
    return True


cdef uint64_t _unsigned(object value, str name, uint64_t limit) except? 1:
    """``value`` as an unsigned number of at most ``limit``."""
    cdef uint64_t number
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    try:
        number = value
    except OverflowError:
        raise ValueError(f"{name} must be 0 to {limit}; it is negative or has more than 64 bits") from None
    if number > limit:
        raise ValueError(f"{name} must be 0 to {limit}, got {number}")
    return number


cdef const char* _ascii(str text, Py_ssize_t length, str what) except NULL:
    """The characters of ``text``, which must be ``length`` of ASCII. A text of another length is not read."""
    if len(text) != length:
        raise ValueError(f"{what} has {length} characters, got {len(text)}")
    if not text.isascii():
        raise ValueError(f"{what} is ASCII, got {text!a}")
    cdef Py_ssize_t size = 0
    return PyUnicode_AsUTF8AndSize(text, &size)     # ASCII is its own UTF-8: no copy is made, size is length


cdef int _write_text(char* out, uint64_t serial, str series) except -1:
    """Write the 30 characters of a serial text."""
    cdef const char* characters = _ascii(series, SERIES_LENGTH, "a series")
    if not _is_series(characters):
        raise ValueError(f"a series is letters and digits, got {series!r}")
    write_serial_text(<uint8_t*>out, serial, <const uint8_t*>characters)
    return SERIAL_TEXT_LENGTH


cdef int _read_text(const char* characters, str text, uint64_t* serial) except -1:
    """Check and read the 30 characters of a serial text. ``text`` is the whole text, for the error."""
    cdef uint64_t ms = 0, counter = 0
    if not _read_digits(characters, 15, &ms):
        raise ValueError(f"{text!r}: the first 15 characters of a serial are digits")
    if ms > LARGEST_MS:
        raise ValueError(f"{text!r}: the milliseconds of a serial are at most {LARGEST_MS}")
    if characters[15] != c"-":
        raise ValueError(f"{text!r}: character 16 of a serial is a '-'")
    if not _read_digits(characters + 16, 5, &counter):
        raise ValueError(f"{text!r}: the counter of a serial is 5 digits")
    if counter > COUNTER_MASK:
        raise ValueError(f"{text!r}: the counter of a serial is at most {COUNTER_MASK}")
    if characters[SERIAL_LENGTH] != c"@":
        raise ValueError(f"{text!r}: character 22 of a serial is a '@'")
    if not _is_series(characters + SERIAL_LENGTH + 1):
        raise ValueError(f"{text!r}: the series of a serial is letters and digits")
    serial[0] = serial_of(ms, counter)
    return 0


def serial_text(serial, str series not None):
    """The 30 characters of an entry's serial in its series. ValueError: more than 64 bits, or not a series."""
    cdef uint64_t number = _unsigned(serial, "serial", UINT64_MAX)
    text = PyUnicode_New(SERIAL_TEXT_LENGTH, 127)
    _write_text(<char*>PyUnicode_1BYTE_DATA(text), number, series)
    return text


def message_serial_text(serial, str series not None, index):
    """The 34 characters of a message's serial; ``index`` is its index in its entry. ValueError as in serial_text."""
    cdef uint64_t number = _unsigned(serial, "serial", UINT64_MAX)
    cdef uint32_t place = <uint32_t>_unsigned(index, "index", LARGEST_INDEX)
    text = PyUnicode_New(MESSAGE_TEXT_LENGTH, 127)
    cdef char* out = <char*>PyUnicode_1BYTE_DATA(text)
    _write_text(out, number, series)
    write_index(<uint8_t*>out, place)
    return text


def parse_serial(str text not None):
    """(serial, series) of a text written by serial_text. ValueError says what is wrong with any other text."""
    cdef uint64_t serial = 0
    _read_text(_ascii(text, SERIAL_TEXT_LENGTH, "a serial"), text, &serial)
    return serial, text[SERIAL_LENGTH + 1:]


def parse_message_serial(str text not None):
    """(serial, series, index) of a text written by message_serial_text. ValueError says what is wrong with any other
    text."""
    cdef uint64_t serial = 0, index = 0
    cdef const char* characters = _ascii(text, MESSAGE_TEXT_LENGTH, "a message serial")
    _read_text(characters, text, &serial)
    if characters[SERIAL_TEXT_LENGTH] != c":":
        raise ValueError(f"{text!r}: character 31 of a message serial is a ':'")
    if not _read_digits(characters + SERIAL_TEXT_LENGTH + 1, 3, &index):
        raise ValueError(f"{text!r}: the index of a message serial is 3 digits")
    return serial, text[SERIAL_LENGTH + 1:SERIAL_TEXT_LENGTH], index


def new_series(bytes random not None):
    """A series from at least 8 random bytes: all of them as one number, modulo 62**8, in base 62.

    62**8 is below 2**48: with 64 random bits the probabilities of series differ by less than one part in 2**16. That is
    enough for a name that has to be fresh, not secret. ValueError: fewer than 8 bytes.
    """
    if len(random) < 8:
        raise ValueError(f"a series takes at least 8 random bytes, got {len(random)}")
    cdef uint64_t rest = int.from_bytes(random, "big") % SERIES_COUNT
    cdef char out[SERIES_LENGTH]
    cdef int i
    for i in range(SERIES_LENGTH):
        out[SERIES_LENGTH - 1 - i] = BASE64URL[rest % 62]
        rest //= 62
    return out[:SERIES_LENGTH].decode("ascii")


def connection_origin(str connection_id not None):
    """The 60 bits of a connection id, as a number above 0. ValueError: another length or alphabet, or all bits are 0.

    Where origins are compared, 0 means "no connection", so the id with that value is refused.
    """
    cdef const char* characters = _ascii(connection_id, ID_LENGTH, "a connection id")
    cdef uint64_t origin = 0
    cdef uint8_t value
    cdef int i
    for i in range(ID_LENGTH):
        value = VALUES[<uint8_t>characters[i]]
        if value == NO_DIGIT:
            raise ValueError(f"{connection_id!r}: character {i + 1} of a connection id is not of base64url")
        origin = origin << 6 | value
    if origin == 0:
        raise ValueError(f"{connection_id!r} names no connection")
    return origin


def connection_id(origin):
    """The 10 characters of a connection's 60 bits, the inverse of connection_origin. ValueError: 0, or over 60 bits."""
    cdef uint64_t rest = _unsigned(origin, "origin", LARGEST_ORIGIN)
    if rest == 0:
        raise ValueError("origin 0 names no connection")
    text = PyUnicode_New(ID_LENGTH, 127)
    cdef char* out = <char*>PyUnicode_1BYTE_DATA(text)
    cdef int i
    for i in range(ID_LENGTH):
        out[ID_LENGTH - 1 - i] = BASE64URL[rest & 63]
        rest >>= 6
    return text
