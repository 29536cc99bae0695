# cython: language_level=3
"""Permits by the headers of requests: a request that repeats the headers of a permitted one is not checked again.

    key    trusted? | each deciding header as it came, or its absence"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free
from libc.stdint cimport int64_t

from ext.net.http_head cimport H_DECIDING, Head
from ext.net.permit cimport Permit
from ext.text.output cimport Out, out_init, put, put_byte

cdef enum:
    MAX_PERMITS = 1000          # beyond that, all are asked for anew
    KEY_ROOM = 4096


@cython.final
cdef class Permits:
    """See above."""

    def __cinit__(self):
        self._by_key = {}
        out_init(&self._key, KEY_ROOM)
        if self._key.failed:
            raise MemoryError("no memory for a key")

    def __dealloc__(self):
        PyMem_Free(self._key.data)

    def find(self, bytes key not None):
        """The permit under this key, or None; it may have expired."""
        return self._by_key.get(key)

    def grant(self, bytes key not None, Permit permit not None):
        """Requests with this key may use this permit."""
        if len(self._by_key) >= MAX_PERMITS:
            self._by_key = {}
        self._by_key[key] = permit

    def revoke_all(self):
        """Revoke all permits."""
        self._by_key = {}

    cdef Permit good(self, bytes key, int64_t wall_ms):
        """The permit under this key, if it has not expired, or None."""
        cdef Permit permit = self._by_key.get(key)
        return permit if permit is not None and wall_ms < permit.good_until_ms else None

    cdef bytes key_of(self, const Head* head, bint trusted):
        """All that decides who asks and the form of the answer, exactly as it came. The lookup hashes the whole key
        with a secret, so its duration does not show how much of a credential was right."""
        cdef int i
        self._key.size = 0
        put_byte(&self._key, c'1' if trusted else c'0')
        for i in range(H_DECIDING):
            if head.value[i].data is not NULL:
                put_byte(&self._key, c'+')
                put(&self._key, head.value[i].data, head.value[i].size)
            put_byte(&self._key, c'\n')
        if self._key.failed:
            PyMem_Free(self._key.data)
            out_init(&self._key, KEY_ROOM)
            raise MemoryError("no memory for a key")
        return PyBytes_FromStringAndSize(<char*>self._key.data, <Py_ssize_t>self._key.size)
