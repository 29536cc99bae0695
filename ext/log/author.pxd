from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t


cdef class Author:
    cdef readonly str connection_id     # None: no connection's
    cdef readonly str client_id         # of messages that name none; None: nobody's
    cdef readonly bint wildcard         # messages may name any client
    cdef readonly bint inherited        # the connection is of an earlier life of the server, which may have ids of its
    cdef readonly uint64_t origin       # of the connection; 0: there is none
    cdef bytes connection               # its id in UTF-8; empty: there is none
    cdef bytes sender                   # of a record without flags: connection id, client id and flags, packed

    cdef bint owns(self, const uint8_t* id, size_t size) noexcept
