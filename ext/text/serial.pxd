from libc.stdint cimport uint64_t

cdef enum:
    SERIAL_LENGTH = 21          # 15 digits of milliseconds, "-", 5 digits of counter
    SERIES_LENGTH = 8
    SERIAL_TEXT_LENGTH = 30     # serial, "@", series
    ID_LENGTH = 10              # characters of a connection id
    COUNTER_BITS = 16           # 65,536 serials in one millisecond; those beyond borrow from the next one
    COUNTER_MASK = (1 << 16) - 1

cdef inline uint64_t ms_of(uint64_t serial) noexcept nogil:
    return serial >> COUNTER_BITS


cdef inline uint64_t counter_of(uint64_t serial) noexcept nogil:
    return serial & COUNTER_MASK


cdef inline uint64_t serial_of(uint64_t ms, uint64_t counter) noexcept nogil:
    return ms << COUNTER_BITS | counter


cdef int write_serial(char* out, uint64_t serial) noexcept nogil


cdef class SerialClock:
    cdef uint64_t _last

    cdef uint64_t take(self, uint64_t now_ms) except 0
