# cython: language_level=3, auto_pickle=False, autotestdict=False
"""How far back a rewind reaches: a cursor that moves back over entries, and counts their messages.

    oldest ...  | e5 | e6 |   | e7 | e8 | e9 |      newest first: from the ring, then from blocks of the journal
                     ^ cursor                ^ head
                 next      <--- messages ---

It stops once it has counted the wanted number of messages, or before the first entry that is too old. It can then be
aimed further back, and goes on. It moves over whole entries: messages beyond the wanted number are in the last of them.
No entry is kept: a count of millions takes three numbers."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport UINT64_MAX, uint8_t, uint64_t

from ext.disk.block cimport OpenBlock, Place, open_block, place_before
from ext.text.msgpack_input cimport In
from ext.log.entry cimport EPHEMERAL_FLAG
from ext.wire.record cimport MAX_MESSAGES, Head, open_record_at
from ext.log.ring cimport Ring

cdef enum:
    ROW_BYTES = 512     # the least cost of a row: finding the next one is work too


@cython.final
cdef class Countback:
    """From ``head`` backwards; later entries are ignored."""

    cdef readonly uint64_t cursor
    cdef readonly uint64_t messages
    cdef readonly uint64_t next
    cdef readonly bint stopped
    cdef uint64_t _wanted, _floor
    cdef size_t _room                   # bytes left of the budget

    def __cinit__(self, uint64_t head):
        self.cursor = head
        self._wanted = UINT64_MAX

    def aim(self, uint64_t messages, uint64_t floor):
        """Stop after this many messages from the head, or before the first entry at or before ``floor``."""
        self._wanted = messages
        self._floor = floor
        self.next = 0
        self.stopped = self.messages >= messages

    def budget(self, uint64_t size):
        """Bytes of blocks that may be read in this turn; one block in any case."""
        self._room = <size_t>size

    def take_ring(self, Ring ring not None, uint64_t most):
        """Go on in the ring, over at most ``most`` entries. True: the ring has more to count."""
        cdef uint64_t n = ring.first_after(self.cursor) - 1
        cdef object entry
        cdef bytes record
        while n >= ring.oldest and not self.stopped:
            if not ring._slots[n & ring._mask].flags & EPHEMERAL_FLAG:     # else it costs next to nothing
                if most == 0:
                    return True
                most -= 1
                entry = ring._entries[<Py_ssize_t>(n & ring._mask)]
                record = <bytes?>(entry if type(entry) is bytes else (<tuple?>entry)[2])
                self._take(ring._slots[n & ring._mask].serial, <const uint8_t*>PyBytes_AS_STRING(record),
                           <size_t>PyBytes_GET_SIZE(record))
            n -= 1
        return False

    def take_block(self, bytes key not None, bytes value not None):
        """Go on with the previous row. True: the row before it is wanted too. Raises: ValueError, if it is damaged."""
        cdef OpenBlock block
        cdef Place place
        open_block(&block, key, value)
        while not self.stopped and place_before(&block, &place):
            self._take(place.serial, place.record, place.size)
        return self._spend(max(<size_t>PyBytes_GET_SIZE(value), <size_t>ROW_BYTES))

    cdef bint _spend(self, size_t size) noexcept:
        self._room -= min(size, self._room)
        return not self.stopped and self._room > 0

    cdef int _take(self, uint64_t serial, const uint8_t* record, size_t size) except -1:
        cdef In source
        cdef Head head
        if serial > self.cursor:        # it has been counted, or is too new
            return 0
        if serial <= self._floor:
            self.next = serial
            self.stopped = True
            return 0
        open_record_at(&source, record, size, &head)
        self.messages += head.count
        self.cursor = serial - 1
        self.stopped = self.messages >= self._wanted
        return 0


def cursor_before(Ring ring not None, uint64_t floor):
    """The cursor for a replay that begins with the first entry after ``floor``; None, if the ring has no such entry."""
    cdef uint64_t n = ring.first_after(floor)
    while n <= ring.newest:
        if not ring._slots[n & ring._mask].flags & EPHEMERAL_FLAG:
            return ring._slots[n & ring._mask].serial - 1
        n += 1
    return None


def max_messages(Ring ring not None):
    """An upper bound of the number of messages in the ring."""
    return (ring.newest + 1 - ring.oldest) * MAX_MESSAGES
