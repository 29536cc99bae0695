# cython: language_level=3, auto_pickle=False, autotestdict=False
"""One batch of a replay: the journal's entries after a cursor, as frames for one reader, with no object per entry.

    block   | e1 | e2 | e3 | e4 |    | e5 | e6 |   ...          rows of the journal, ascending
                      ^ cursor                    ^ until       nothing before, nothing beyond
    frames                 [ e4 ][ e5 ][ e6 ]                   up to the budget; at least one

A batch advances its cursor over each entry that it takes, and over those of ``skip_origin``, which get no frame. If the
first entry's serial is the initial cursor + 1, ``omit`` of its messages are left out: a rewind can begin inside it."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.disk.block cimport OpenBlock, Place, end_block, next_place, open_block
from ext.text.output cimport Out, out_init
from ext.text.serial cimport ID_LENGTH
from ext.wire.encoder cimport EntryEncoder

from ext.text.serial import connection_id

cdef enum:
    SPARE = 4096        # beyond the budget: a frame is written before it is known to exceed the budget


@cython.final
cdef class Playback:
    """The frames of the entries after ``cursor``, up to and including ``until``."""

    cdef readonly uint64_t cursor
    cdef readonly uint64_t previous
    cdef readonly uint64_t entries, messages
    cdef readonly bint full
    cdef EntryEncoder _encoder
    cdef uint64_t _until, _begins
    cdef uint32_t _omit
    cdef size_t _budget, _passed
    cdef bytes _skip
    cdef Out _out

    def __cinit__(self, EntryEncoder encoder not None, uint64_t cursor, *, uint64_t until, uint64_t budget,
                  uint64_t skip_origin=0, uint32_t omit=0):
        if budget > 1 << 30:
            raise ValueError(f"a batch has at most {1 << 30} bytes, got a budget of {budget}")
        self._encoder = encoder
        self.cursor = cursor
        self._begins = cursor + 1
        self._omit = omit
        self._until = until
        self._budget = <size_t>budget
        self._skip = connection_id(skip_origin).encode("ascii") if skip_origin else None

    def __dealloc__(self):
        PyMem_Free(self._out.data)

    def take_block(self, bytes key not None, bytes value not None):
        """Go on with the next row. True: more would fit. Raises: ValueError, if it is damaged."""
        cdef OpenBlock block
        cdef Place place
        cdef size_t n
        open_block(&block, key, value)
        for n in range(block.count):
            next_place(&block, &place)
            if not self._take(&place, block.series):
                return False
        end_block(&block)
        return True

    def frames(self):
        """All frames, contiguous; empty, if there is nothing for this reader."""
        return PyBytes_FromStringAndSize(<char*>self._out.data, <Py_ssize_t>self._out.size)

    cdef int _take(self, Place* place, const uint8_t* series) except -1:
        """1: taken, or before the cursor; 0: it does not fit, or is beyond ``until``."""
        cdef const uint8_t* skip = NULL
        cdef size_t start = self._out.size
        cdef int count
        if place.serial <= self.cursor:
            return 1
        if self.full or place.serial > self._until:
            self.full = True
            return 0
        if self._out.data is NULL:
            out_init(&self._out, self._budget + SPARE)
        if self._skip is not None:
            skip = <const uint8_t*>PyBytes_AS_STRING(self._skip)
        count = self._encoder.write_stored(&self._out, place.serial, series, place.record, place.size, skip,
                                           self._omit if place.serial == self._begins else 0)
        if self._out.size == start:
            self._passed += place.size          # a reader's own messages: reading them is bounded too
        if self._out.size + self._passed > self._budget:
            self.full = True
            if self.entries:
                self._out.size = start          # it goes to the next batch
                return 0
        if not self.entries:
            self.previous = place.previous
        self.entries += 1
        self.messages += <uint64_t>count
        self.cursor = place.serial
        return 0 if self.full else 1
