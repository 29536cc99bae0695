from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.text.output cimport Out


cdef class EntryEncoder:
    cdef readonly int format
    cdef bytes _prefix          # of the payload, up to the value of channelSerial

    cdef int write_frame(self, Out* out, uint64_t serial, str series, bytes record, uint32_t first) except -1
    cdef int write_stored(self, Out* out, uint64_t serial, const uint8_t* series, const uint8_t* record, size_t size,
                          const uint8_t* skip, uint32_t first) except -1
    cdef int _write_record(self, Out* out, uint64_t serial, uint8_t* name, const uint8_t* record, size_t size,
                           uint32_t first) except -1
    cdef int _write(self, Out* out, uint64_t serial, str series, bytes record, uint32_t first) except -1


cdef int put_ack_head(Out* out, int format, uint64_t msg_serial, uint32_t count) noexcept
cdef int put_ack_place(Out* out, int format, bint following, uint64_t serial, str series, uint32_t first,
                       uint32_t count) except -1
cdef int put_ack_end(Out* out, int format) noexcept
