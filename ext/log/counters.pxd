from libc.stdint cimport int64_t, uint64_t


cdef class Gauge:
    cdef readonly int64_t now, peak, least
    cdef readonly uint64_t opened


cdef class Meter:
    cdef readonly Gauge connections, channels
    cdef uint64_t realtime_count, realtime_data
    cdef uint64_t rest_count, rest_data
    cdef uint64_t outbound_count, outbound_data
    cdef uint64_t persisted_count, persisted_data
    cdef public uint64_t remembered     # message ids in the windows of its channels
    cdef public uint64_t max_remembered    # limit of that, if its quota sets one; 0: its share
