# cython: language_level=3
"""One channel's log, as far as every message goes through it: what is staged, and what is visible.

    staged      _pending         numbered, its ids remembered; nobody sees it
                _under_way       in the hands of the journal, as a part of a batch
    visible     ring             and a frame in each of its streams; ``head`` is the newest

``engine.channel.Channel`` is this, and what else a channel is."""
cimport cython
from cpython.mem cimport PyMem_Free
from libc.stddef cimport size_t
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t

from ext.dedup cimport DedupWindow, Id
from ext.output cimport Out, bytes_of, out_init
from ext.prints cimport Prints
from ext.ring cimport Ring, Stream
from ext.staging cimport holds_any
from ext.wire cimport EntryEncoder

cdef enum:
    EPHEMERAL = 1               # a flag of entries, see ext/ring.pyx
    FRAME_ROOM = 4096
    KEPT_ROOM = 256 * 1024      # of the buffer that frames are made in

cdef Out _frame                 # the frame that is being made; there is one thread for all that is visible
out_init(&_frame, FRAME_ROOM)


@cython.final
@cython.freelist(2048)
cdef class Entry:
    """An entry on its way to the journal."""

    def __init__(self, Log log not None, uint64_t serial, bytes record not None, uint64_t origin, uint32_t flags,
                 uint32_t count, completion):
        self.log = log
        self.serial = serial
        self.record = record
        self.origin = origin
        self.flags = flags
        self.count = count
        self.completion = completion

    def follow(self, completion, uint32_t first, uint32_t count):
        """A repeat waits for this one's outcome: ``count`` messages from index ``first`` on."""
        if self.followers is None:
            self.followers = []
        self.followers.append((completion, first, count))


cdef class Log:
    """See above. ``kept`` says whether a journal keeps it; ``awake``, whether anything may be staged in it."""

    def __cinit__(self, *args, **kwargs):
        self.head = self.last_stored = 0
        self.most_bytes = UINT64_MAX

    def __init__(self, str key not None, str series not None, *, bint kept):
        self.key = key
        self.series = series
        self.kept = kept

    @property
    def staged(self):
        """Entries that have a serial and are not visible yet."""
        return (len(self._pending) if self._pending is not None else 0) + (
            len(self._under_way) if self._under_way is not None else 0)

    @property
    def first_under_way(self):
        """The serial of the oldest entry that is; 0: there is none."""
        return (<Entry>self._under_way[0]).serial if self._under_way else 0

    def commit(self, uint64_t serial, bytes record not None, uint64_t origin, uint32_t flags):
        """Make a durable entry visible: in the ring, and framed in each format that somebody reads."""
        self.show(serial, record, origin, flags)

    def frames_after(self, uint64_t cursor, EntryEncoder encoder not None, *, uint64_t budget, uint64_t skip_origin=0):
        """For a replay: ``(serial of the last one looked at, frames of the entries after the cursor, their messages)``.

        At most ``budget`` bytes of records, but at least one entry if there is any. Ephemeral ones and those of
        ``skip_origin`` are passed over. Raises: Evicted, when something after the cursor is no longer in the ring.
        """
        cdef Ring ring = self.ring
        cdef uint64_t n, first, last, messages = 0
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
                if type(entry) is bytes:        # most are: no tuple is made of them
                    messages += encoder.write_frame(&out, ring._slots[n & ring._mask].serial, ring.series_at(n), entry)
                else:
                    parts = entry
                    messages += encoder.write_frame(&out, parts[0], parts[1], parts[2])
            return ring._slots[last & ring._mask].serial, bytes_of(&out, "frames of a replay"), messages
        finally:
            PyMem_Free(out.data)

    def staged_entry(self, uint64_t serial):
        """The staged entry with this serial, or None."""
        return self._find(serial)

    def shown_record(self, uint64_t serial):
        """The record of the visible entry with this serial, as long as it is in the ring, ephemeral ones too; or None."""
        cdef Ring ring = self.ring
        cdef uint64_t n = ring.first_after(serial - 1)
        if n > ring.newest or n < ring.oldest or ring._slots[n & ring._mask].serial != serial:
            return None
        entry = ring._entries[<Py_ssize_t>(n & ring._mask)]
        return entry if type(entry) is bytes else entry[2]

    cdef bint holds_earlier(self, Id* id) noexcept:
        """May this id have been used in an earlier life? While not all that were are known, it may."""
        return self.earlier is not None and (not self.recalled or self.earlier.holds(id))

    cdef bint holds_any_earlier(self, uint32_t count, uint8_t* base, size_t size) noexcept:
        """The same of the ids ``<base><index>``."""
        return self.earlier is not None and (not self.recalled or holds_any(self.earlier, count, base, size))

    cdef int show(self, uint64_t serial, bytes record, uint64_t origin, uint32_t flags) except -1:
        cdef Stream stream
        cdef str series = self.series
        # A record by itself, if the ring knows the rest: a million tuples are felt by everybody, in memory and collector.
        self.ring.take(serial, record if series is self.ring.series else (serial, series, record),
                       <uint32_t>len(record), origin, flags)
        for stream in self.ring.streams:
            _frame.size = 0
            (<EntryEncoder?>stream.encoder).write_frame(&_frame, serial, series, record)
            stream.take(_frame.data, _frame.size)
        if _frame.room > KEPT_ROOM:
            PyMem_Free(_frame.data)
            out_init(&_frame, FRAME_ROOM)
        self.head = serial
        if not flags & EPHEMERAL:
            self.last_stored = serial
        if self.ring.budget.held > self.ring.budget.most:
            self.ring.budget.make_room()
        if flags & EPHEMERAL or not self.kept:
            if self.prints is None:
                self.prints = Prints.__new__(Prints)
            self.prints.take(serial, record)
        return 0

    cdef Entry _find(self, uint64_t serial):
        cdef Entry entry
        cdef list entries
        cdef Py_ssize_t low, high, middle
        for entries in (self._pending, self._under_way):
            if entries is None:
                continue
            low, high = 0, len(entries)         # they are in order of their serials, and may be many while a disk is slow
            while low < high:
                middle = (low + high) // 2
                entry = entries[middle]
                if entry.serial == serial:
                    return entry
                if entry.serial < serial:
                    low = middle + 1
                else:
                    high = middle
        return None
