# cython: language_level=3
"""One channel's log for its readers, wherever its home is: the newest entries, and a frame of each for every format.

    reveal(entries) --> ring        the newest entries
                    --> streams     a frame in each, contiguous
                    --> head        the newest serial: a new subscriber reads on after it

A home (ext/log/home.pyx) is a view, and reveals what its journal has stored. Elsewhere a mirror is fed what the home
has revealed."""
from cpython.mem cimport PyMem_Free
from libc.stdint cimport uint32_t, uint64_t

from ext.log.entry cimport Entry
from ext.text.output cimport Out, bytes_of, out_init
from ext.log.ring cimport Ring
from ext.log.stream cimport Stream
from ext.wire.encoder cimport EntryEncoder

cdef enum:
    FRAME_ROOM = 4096
    KEPT_ROOM = 256 * 1024      # of the buffer that frames are made in

cdef Out _frame                 # the frame that is being made; one thread makes everything visible
out_init(&_frame, FRAME_ROOM)


cdef class View:
    """See above."""

    def __cinit__(self, *args, **kwargs):
        self.head = 0

    def __init__(self, str key not None, str series not None):
        self.key = key
        self.series = series

    def reveal(self, list entries not None):
        """Make entries visible, which follow ``head`` in order. Returns the streams that have grown."""
        cdef list moved = []
        self.show_all(entries, moved)
        return moved

    def frames_after(self, uint64_t cursor, EntryEncoder encoder not None, *, uint64_t budget, uint64_t skip_origin=0,
                     uint32_t omit=0):
        """For a replay: ``(serial of the last one looked at, frames of the entries after the cursor, their messages)``.

        At most ``budget`` bytes of records, but at least one entry if there is any. Ephemeral ones and those of
        ``skip_origin`` are skipped. If the first entry's serial is cursor + 1, its first ``omit`` messages are
        left out: a rewind can begin inside it. Raises: Evicted, when something after the cursor is not in the ring.
        """
        cdef Ring ring = self.ring
        cdef uint64_t n, first, last, serial, messages = 0
        cdef uint32_t index
        cdef object entry
        cdef tuple parts
        cdef Out out
        ring.span_after(cursor, budget, &first, &last)
        if first > last:
            return cursor, b"", 0
        out_init(&out, FRAME_ROOM)
        try:
            for n in range(first, last + 1):
                if not ring.is_replayed(n, skip_origin):
                    continue
                entry = ring._entries[<Py_ssize_t>(n & ring._mask)]
                serial = ring._slots[n & ring._mask].serial
                index = omit if serial == cursor + 1 else 0
                if type(entry) is bytes:        # most are: no tuple is made of them
                    messages += encoder.write_frame(&out, serial, ring.series_at(n), entry, index)
                else:
                    parts = entry
                    messages += encoder.write_frame(&out, parts[0], parts[1], parts[2], index)
            return ring._slots[last & ring._mask].serial, bytes_of(&out, "frames of a replay"), messages
        finally:
            PyMem_Free(out.data)

    def shown_record(self, uint64_t serial):
        """The record of the visible entry with this serial, while it is in the ring, ephemeral ones too; or None."""
        cdef Ring ring = self.ring
        cdef uint64_t n = ring.first_after(serial - 1)
        if n > ring.newest or n < ring.oldest or ring._slots[n & ring._mask].serial != serial:
            return None
        entry = ring._entries[<Py_ssize_t>(n & ring._mask)]
        return entry if type(entry) is bytes else entry[2]

    cdef uint64_t show_all(self, list entries, list moved) except? 0xFFFFFFFF:
        """Like ``reveal``; ``moved`` gets the streams. Returns how many readers they have now."""
        cdef Entry entry
        cdef Stream stream
        cdef uint64_t readers = 0
        for entry in entries:
            self.show(entry.serial, entry.record, entry.origin, entry.flags)
        for stream in self.ring.streams:
            moved.append(stream)
            readers += stream.readers.count
        return readers

    cdef int show(self, uint64_t serial, bytes record, uint64_t origin, uint32_t flags) except -1:
        cdef Stream stream
        cdef str series = self.series
        # The record alone, if the ring knows the rest: a million tuples would slow everything down, by memory and GC.
        self.ring.take(serial, record if series is self.ring.series else (serial, series, record),
                       <uint32_t>len(record), origin, flags)
        for stream in self.ring.streams:
            _frame.size = 0
            (<EntryEncoder?>stream.encoder).write_frame(&_frame, serial, series, record, 0)
            stream.take(_frame.data, _frame.size)
        if _frame.room > KEPT_ROOM:
            PyMem_Free(_frame.data)
            out_init(&_frame, FRAME_ROOM)
        self.head = serial
        if self.ring.budget.held > self.ring.budget.most:
            self.ring.budget.make_room()
        return 0
