from libc.stdint cimport uint64_t

cdef enum:
    SERIAL_LENGTH = 21          # 15 digits of milliseconds, "-", 5 digits of counter
    SERIES_LENGTH = 8
    SERIAL_TEXT_LENGTH = 30     # serial, "@", series
    ID_LENGTH = 10              # characters of a connection id

cdef int write_serial(char* out, uint64_t serial) noexcept nogil


cdef class SerialClock:
    cdef uint64_t _last

    cdef uint64_t take(self, uint64_t now_ms) except 0
