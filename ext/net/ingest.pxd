from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.wire.acks cimport AckQueue
from ext.log.home cimport Home
from ext.text.output cimport Out
from ext.wire.publish cimport Parser
from ext.log.rate cimport Rate
from ext.net.sink cimport Sink
from ext.log.common cimport Common


cdef class Ingest(Sink):
    cdef Common _common
    cdef AckQueue _acks
    cdef str _connection
    cdef bytes _connection_id           # the same in UTF-8
    cdef bytes _sender                  # of a record: connection id, client id and flags, as msgpack
    cdef uint64_t _origin
    cdef uint64_t _most_bytes, _most_unanswered, _most_pending
    cdef uint32_t _most_messages
    cdef dict _homes                     # by the channel's name on the wire; None while there are none
    cdef Rate _connection_rate          # None: it has none of its own
    cdef Rate _key_rate, _app_rate
    cdef bytes _name                    # the last one that was used
    cdef Home _home
    cdef bint _inherited                # an earlier life of the server may have ids of its

    cdef bint _stage(self, Parser parser) except -1
    cdef bint _has_room(self, Home home, uint64_t size) noexcept
    cdef Home _find(self, Parser parser)
