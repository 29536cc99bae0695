# cython: language_level=3, auto_pickle=False, autotestdict=False
"""Adds the message ids of the journal's entries to a window, with no object per entry.

    block   | e1 | e2 | e3 | e4 |    | e5 | e6 |   ...          rows of the journal, ascending
                      ^ cursor                    ^ until       nothing before, nothing beyond

A run has a budget of bytes, and ends with the block that uses it up; the next run goes on after the cursor. Only the
part of a record before its messages is read, unless the messages have ids of their own. It is made for a thread beside
the event loop: it does not hold the interpreter's lock while it works through a block."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ext.disk.block cimport OpenBlock, open_block
from ext.log.dedup cimport DedupWindow, Id
from ext.text.msgpack_input cimport I_ARRAY, I_BAD, I_MAP, I_NIL, I_STR, I_UINT, In, Item, big_endian, read_item
from ext.wire.record cimport MAX_MESSAGES
from ext.log.staging cimport LONGEST_INDEX, decimal

cdef enum:
    LONGEST_BASE = 2048         # bytes; an id has 1,024 at most
    MALFORMED = -1
    NO_MEMORY = -2


@cython.final
cdef class Recall:
    """The ids of the entries after ``cursor``, up to and including ``until``."""

    cdef readonly DedupWindow window
    cdef readonly uint64_t cursor
    cdef readonly uint64_t entries
    cdef readonly bint full             # the budget is used up, or ``until`` is reached
    cdef object _steady_of
    cdef uint64_t _until
    cdef int64_t _left

    def __cinit__(self, DedupWindow window not None, steady_of, uint64_t cursor, *, uint64_t until):
        """``steady_of``: the time in ms, by the clock of windows, at which a serial was given out."""
        self.window = window
        self._steady_of = steady_of
        self.cursor = cursor
        self._until = until

    def begin(self, int64_t budget):
        """Start a run, of this many bytes of blocks; the last block may exceed it."""
        self._left = budget
        self.full = self.cursor >= self._until

    def take_block(self, bytes key not None, bytes value not None):
        """Go on with the next row. True: this run wants more. Raises: ValueError, if it is damaged; MemoryError."""
        cdef OpenBlock block
        cdef uint64_t at_ms, serial, before = self.entries
        cdef const uint8_t* record
        cdef size_t n, size
        cdef int outcome = 0
        if self.full:
            return False
        open_block(&block, key, value)
        # One append took them all at one time. Use that of the last serial, so that none is forgotten too early.
        at_ms = self._steady_of(big_endian(block._serials + 8 * (block.count - 1), 8))
        record = block._record
        with nogil:
            for n in range(block.count):
                serial = big_endian(block._serials + 8 * n, 8)
                size = <size_t>big_endian(block._sizes + 4 * n, 4)
                if size > <size_t>(block._end - record):
                    outcome = MALFORMED
                elif serial > self._until:
                    self.full = True
                    self.cursor = self._until
                elif serial > self.cursor:
                    outcome = self._take(record, size, serial, at_ms)
                if outcome < 0 or self.full:
                    break
                record += size
                if serial > self.cursor:
                    self.cursor = serial
                    self.entries += 1
        self._raise(outcome)
        if self.entries != before:                  # else the run began with the block that spans the cursor
            self._left -= <int64_t>PyBytes_GET_SIZE(value)
        if self._left <= 0:
            self.full = True
        return not self.full

    cdef int _raise(self, int outcome) except -1:
        if outcome == MALFORMED:
            raise ValueError("the record is malformed")
        if outcome == NO_MEMORY:
            raise MemoryError(f"no memory for more than {len(self.window)} ids")
        return 0

    cdef int _take(self, const uint8_t* record, size_t size, uint64_t serial, uint64_t at_ms) noexcept nogil:
        """Add the ids of an entry. Its form is in ext/wire/record.pxd."""
        cdef uint8_t base[LONGEST_BASE + 1 + LONGEST_INDEX]
        cdef In source
        cdef Item item
        cdef const uint8_t* text
        cdef size_t length, count, index
        cdef Id id
        source.data = record
        source.size = size
        source.at = 0
        if read_item(&source, &item) != I_ARRAY or item.size != 5:
            return MALFORMED
        if read_item(&source, &item) != I_STR or item.size > LONGEST_BASE:
            return MALFORMED
        text = item.data
        length = item.size
        for index in range(2):                      # connection and client
            if read_item(&source, &item) != I_STR and item.kind != I_NIL:
                return MALFORMED
        if read_item(&source, &item) != I_UINT:
            return MALFORMED
        if read_item(&source, &item) != I_ARRAY or not 0 < item.size <= MAX_MESSAGES:
            return MALFORMED
        count = item.size
        if not _begins_with_id(&source, &item):     # then no message has one of its own
            memcpy(base, text, length)
            base[length] = c':'
            length += 1
            id = self.window.id_of(base, length + decimal(base + length, 0))
            if id.is_counted and not self.window.holds_some(&id, <uint32_t>count):
                return NO_MEMORY if self.window.put(&id, <uint32_t>count, serial, 0, at_ms) < 0 else 0
            for index in range(count):
                id = self.window.id_of(base, length + decimal(base + length, index))
                if self._remember(&id, serial, <uint32_t>index, at_ms) < 0:
                    return NO_MEMORY
            return 0
        for index in range(count):
            if index and not _begins_with_id(&source, &item):
                return MALFORMED
            length = item.size                      # of the map; its first key has been read
            if read_item(&source, &item) != I_STR:
                return MALFORMED
            id = self.window.id_of(item.data, item.size)
            if self._remember(&id, serial, <uint32_t>index, at_ms) < 0:
                return NO_MEMORY
            if not _skip(&source, 2 * (length - 1)):
                return MALFORMED
        return 0

    cdef int _remember(self, Id* id, uint64_t serial, uint32_t index, uint64_t at_ms) noexcept nogil:
        """Add the id, unless it is held: the first use counts."""
        if self.window.holds(id):
            return 0
        return NO_MEMORY if self.window.put(id, 1, serial, index, at_ms) < 0 else 0


cdef bint _begins_with_id(In* source, Item* item) noexcept nogil:
    """Is the next item a message with an id? Then ``item.size`` is its number of members, and the first key has been
    read."""
    cdef Item key
    if read_item(source, item) != I_MAP or item.size == 0:
        return False
    return read_item(source, &key) == I_STR and key.size == 2 and memcmp(key.data, b"id", 2) == 0


cdef bint _skip(In* source, size_t left) noexcept nogil:
    """Skip ``left`` values of any kind."""
    cdef Item item
    while left:
        left -= 1
        if read_item(source, &item) == I_BAD:
            return False
        if item.kind == I_ARRAY:
            left += item.size
        elif item.kind == I_MAP:
            left += 2 * item.size
    return True
