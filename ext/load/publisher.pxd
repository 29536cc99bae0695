from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

from ext.load.histogram cimport Histogram
from ext.load.ranges cimport Ranges


cdef enum:
    _MARK_BYTES = 45
    RUN_BYTES = 8
    PUBLISHER_AT = 10
    PUBLISHER_DIGITS = 6
    SEQUENCE_AT = 17
    SEQUENCE_DIGITS = 10
    DUE_AT = 28
    DUE_DIGITS = 16


cdef class Template:
    cdef readonly uint64_t count
    cdef bytes _before, _after, _run
    cdef bint _binary
    cdef uint64_t _publisher
    cdef size_t* _places

    cdef size_t size(self, uint64_t number) noexcept
    cdef void write(self, uint8_t* to, uint64_t number, uint64_t sequence, int64_t due_ns) noexcept


cdef class Tally:
    cdef readonly Histogram latency, ack_latency
    cdef readonly uint64_t delivered, acknowledged, repeats, inversions, missing, unlocated, misplaced, stray_acks
    cdef readonly uint64_t refused_deliveries
    cdef int64_t measure_from, measure_to   # due times of the messages that are timed; others are only counted
    cdef readonly list examples             # the first irregularities, as text
    cdef readonly dict publishers           # by number
    cdef bytes mark                         # prefix of all marks of this run
    cdef Py_ssize_t ranges, max_ranges     # gaps that are kept, by all receivers; and their limit


cdef class Publisher:
    cdef readonly uint64_t sent, answered, refused      # publishes
    cdef readonly uint64_t number, per_publish
    cdef readonly object owner
    cdef readonly Ranges refused_messages
    cdef Tally _tally
    cdef Template _template
    cdef list _touched
    cdef bint _waiting
    cdef int64_t* _due                                  # of publish n at n & mask, while it is unanswered
    cdef uint64_t _mask, _mask_state

    cdef bytes _frames(self, uint64_t first)
    cdef int _note(self, int64_t due_ns) except -1
    cdef bint answer(self, uint64_t first, uint64_t count, bint refused) except *
