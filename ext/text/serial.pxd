from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    SERIAL_LENGTH = 21          # 15 digits of milliseconds, "-", 5 digits of counter
    SERIES_LENGTH = 8
    SERIAL_TEXT_LENGTH = 30     # serial, "@", series
    MESSAGE_TEXT_LENGTH = 34    # the same, ":", 3 digits of index
    ID_LENGTH = 10              # characters of a connection id
    COUNTER_BITS = 16           # 65,536 serials in one millisecond; more borrow from the next one
    COUNTER_MASK = (1 << 16) - 1

cdef inline uint64_t ms_of(uint64_t serial) noexcept nogil:
    return serial >> COUNTER_BITS


cdef inline uint64_t counter_of(uint64_t serial) noexcept nogil:
    return serial & COUNTER_MASK


cdef inline uint64_t serial_of(uint64_t ms, uint64_t counter) noexcept nogil:
    return ms << COUNTER_BITS | counter


cdef int write_serial(char* out, uint64_t serial) noexcept nogil


cdef inline void write_serial_text(uint8_t* out, uint64_t serial, const uint8_t* series) noexcept nogil:
    """The 30 characters of an entry's serial; ``series`` must have 8 characters."""
    write_serial(<char*>out, serial)
    out[SERIAL_LENGTH] = c'@'
    memcpy(out + SERIAL_LENGTH + 1, series, SERIES_LENGTH)


cdef inline void write_index(uint8_t* out, uint32_t index) noexcept nogil:
    """The next 4 characters, which make it the serial of one of the entry's messages; index < 1000."""
    out[SERIAL_TEXT_LENGTH] = c':'
    out[SERIAL_TEXT_LENGTH + 1] = <uint8_t>(c'0' + index // 100)
    out[SERIAL_TEXT_LENGTH + 2] = <uint8_t>(c'0' + index // 10 % 10)
    out[SERIAL_TEXT_LENGTH + 3] = <uint8_t>(c'0' + index % 10)


cdef class SerialClock:
    cdef uint64_t _last

    cdef uint64_t take(self, uint64_t now_ms) except 0
