from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.acks cimport AckQueue
from ext.dedup cimport DedupWindow, Hash
from ext.log cimport Log
from ext.output cimport Out
from ext.publish cimport Parser
from ext.rate cimport Rate
from ext.sequence cimport Sequence
from ext.sink cimport Sink


cdef class Ingest(Sink):
    cdef Sequence _sequence
    cdef AckQueue _acks
    cdef bytes _connection_id           # UTF-8
    cdef bytes _sender                  # of a record: connection id, client id and flags, as msgpack
    cdef uint64_t _origin
    cdef uint64_t _most_bytes, _most_unanswered, _most_pending
    cdef uint32_t _most_messages
    cdef dict _logs                     # by the channel's name on the wire; None while there are none
    cdef Rate _connection_rate          # None: it has none of its own
    cdef Rate _key_rate, _app_rate
    cdef bytes _name                    # the last one that was used
    cdef Log _log
    cdef Hash _ahead                    # of the id that the next publish will probably have
    cdef uint64_t _ahead_serial         # if its msgSerial is this one
    cdef bint _is_ahead                 # there is one

    cdef bint _stage(self, Parser parser) except? True
    cdef void _look_ahead(self, DedupWindow dedup, uint64_t msg_serial) noexcept
    cdef bint _has_room(self, Log log, uint64_t size) noexcept
    cdef Log _find(self, Parser parser)
