from libc.stdint cimport uint8_t

from ext.log.author cimport Author
from ext.log.common cimport Common
from ext.log.home cimport Home
from ext.log.terms cimport Terms
from ext.net.sink cimport Sink
from ext.wire.acks cimport AckQueue
from ext.wire.publish cimport Parser


cdef class Ingest(Sink):
    cdef Common _common
    cdef AckQueue _acks
    cdef Author _author
    cdef Terms _terms
    cdef dict _homes                    # by the channel's name on the wire; None while there are none
    cdef bytes _name                    # the last one that was used
    cdef Home _home

    cdef bint _stage(self, Parser parser) except -1
    cdef Home _find(self, Parser parser)
