from libc.stdint cimport int64_t

from ext.net.http_head cimport Head
from ext.net.permit cimport Permit
from ext.text.output cimport Out


cdef class Permits:
    cdef dict _by_key
    cdef Out _key

    cdef bytes key_of(self, const Head* head, bint trusted)
    cdef Permit good(self, bytes key, int64_t wall_ms)
