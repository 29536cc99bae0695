# cython: language_level=3
"""The author of published messages: which client ids and message ids they may have.

    clientId    with a wildcard, any but "*" and ""; else only the author's own
    id          of the form <connectionId>:<number>:<number> only over that connection: others could use up its next
                ids, and its own messages would not be stored"""
cimport cython
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from ext.log.id_runs cimport WHO_CHARS, names_connection
from ext.text.output cimport Out, bytes_of, out_init, put_byte, put_str

from ext.text.serial import connection_origin


@cython.final
cdef class Author:
    """See above. One for a connection, or for all requests with the same credentials."""

    def __init__(self, str connection_id, str client_id, *, bint wildcard=False, bint inherited=False):
        cdef Out out
        self.connection_id = connection_id
        self.client_id = client_id
        self.wildcard = wildcard
        self.inherited = inherited
        self.connection = b"" if connection_id is None else connection_id.encode()
        self.origin = 0 if connection_id is None else connection_origin(connection_id)
        out_init(&out, 64)
        try:
            _put_name(&out, connection_id)
            _put_name(&out, client_id)
            put_byte(&out, 0)
            self.sender = bytes_of(&out, "a name")
        finally:
            PyMem_Free(out.data)

    def permits_client_id(self, str client_id):
        """May a message have this client id? None: it has none."""
        if client_id is None:
            return True
        return client_id not in ("*", "") and (self.wildcard or client_id == self.client_id)

    def permits_id(self, str message_id not None):
        """May a message have this id?"""
        cdef Py_ssize_t size = 0
        cdef const char* data = PyUnicode_AsUTF8AndSize(message_id, &size)
        return self.owns(<const uint8_t*>data, <size_t>size)

    cdef bint owns(self, const uint8_t* id, size_t size) noexcept:
        return not names_connection(id, size) or (
            <size_t>len(self.connection) == WHO_CHARS and memcmp(id, <const char*>self.connection, WHO_CHARS) == 0)


cdef int _put_name(Out* out, str name) except -1:
    cdef bytes text
    if name is None:
        put_byte(out, 0xc0)
    else:
        text = name.encode()
        put_str(out, <const char*>text, <size_t>len(text))
    return 0
