from ext.net.kernel cimport iovec
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t


cdef enum:
    SEALED_BYTES = 64 * 1024    # of plaintext, in one send: four records, which are kept for a peer that does not read


cdef class Cipher:
    cdef object _tls, _incoming, _outgoing      # an ssl.SSLObject between two ssl.MemoryBIO
    cdef object _read, _write, _pending         # methods of the first
    cdef bytes _records         # sealed; what lies before ``_sent`` has been sent
    cdef size_t _sent
    cdef bint _said_end

    cdef bytes open(self, const uint8_t* records, size_t size)
    cdef bytes open_more(self)
    cdef ssize_t seal_and_send(self, int fd, const iovec* pieces, unsigned int count) except? -2
    cdef int send_rest(self, int fd) except? -2
    cdef int say_end(self) except -1
    cdef bint has_records(self)
    cdef int _seal(self, bytes plain) except -1
