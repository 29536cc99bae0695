from libc.stdint cimport int64_t, uint32_t, uint64_t

from ext.text.output cimport Out


cdef class Receipt:
    cdef AckQueue _queue
    cdef Receipt _next
    cdef readonly uint64_t msg_serial
    cdef uint64_t _serial
    cdef str _series                # None: not stored (yet)
    cdef uint32_t _size, _first, _count
    cdef object _error              # why it was refused, or None

    cdef int store(self, uint64_t serial, str series, uint32_t first, uint32_t count) except -1


cdef class AckQueue:
    cdef readonly int format
    cdef readonly uint64_t bytes    # of publishes that are not answered yet
    cdef public uint64_t max_bytes  # limit of that; beyond it, reading from the connection pauses
    cdef public object owner
    cdef public object transport
    cdef public bint paused
    cdef list _touched_list
    cdef bint _touched
    cdef Receipt _first, _last
    cdef Py_ssize_t _length

    cdef Receipt push(self, uint64_t msg_serial, uint32_t size)
    cdef int touch(self) except -1
    cdef bint plain(self)
    cdef int put_run(self, Out* out) except -1
    cdef Receipt _pop(self)

    cdef inline bint is_full(self) noexcept:
        return self.bytes > self.max_bytes
