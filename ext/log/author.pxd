from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t


cdef class Author:
    cdef readonly str connection_id     # None: not of a connection
    cdef readonly str client_id         # for messages that name no client; None: anonymous
    cdef readonly bint wildcard         # messages may name any client
    cdef readonly bint inherited        # the connection is from an earlier life of the server, with ids taken then
    cdef readonly uint64_t origin       # of the connection; 0: none
    cdef bytes connection               # its id in UTF-8; empty: none
    cdef bytes sender                   # of a record without flags: connection id, client id and flags, packed

    cdef bint owns(self, const uint8_t* id, size_t size) noexcept
