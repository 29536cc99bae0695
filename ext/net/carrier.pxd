from libc.stdint cimport uint32_t

from ext.net.kernel cimport iovec


cdef class Carrier:
    cdef object _wake           # called when there is news for the task; None after the end
    cdef bytearray _waiting     # for the task to take
    cdef uint32_t _on_way       # bytes that the task has taken and not sent yet
    cdef readonly bint reading, finished, ended

    cdef ssize_t put(self, const iovec* pieces, uint32_t count) except -1
    cdef int read(self, bint wanted) except -1
    cdef int finish(self) except -1
    cdef int end(self) except -1
    cdef int _tell(self) except -1
