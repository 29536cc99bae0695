# cython: language_level=3
"""One channel's log at its home: what is staged, and then what readers see of it (ext/log/view.pyx).

    staged      _pending         numbered, its ids remembered; nobody sees it
                _under_way       handed to the journal, as part of a batch
    visible     View             ring, streams, head

``engine.channel.Channel`` adds everything else about a channel."""
from libc.stdint cimport UINT64_MAX, uint64_t

from ext.log.dedup cimport DedupWindow
from ext.log.entry cimport EPHEMERAL_FLAG, Entry
from ext.log.prints cimport Prints
from ext.log.view cimport View


cdef class Home(View):
    """See above. ``kept``: a journal keeps it; ``awake``: entries may be staged in it."""

    def __cinit__(self, *args, **kwargs):
        self.last_stored = 0
        self.max_bytes = UINT64_MAX

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
        """The serial of the oldest entry that is under way; 0: there is none."""
        return (<Entry>self._under_way[0]).serial if self._under_way else 0

    def staged_entry(self, uint64_t serial):
        """The staged entry with this serial, or None."""
        return self._find(serial)

    cdef int note_shown(self, list entries) except -1:
        """Remember what a home has to know about entries that are now visible."""
        cdef Entry entry
        for entry in entries:
            if not entry.flags & EPHEMERAL_FLAG:
                self.last_stored = entry.serial
                if self.kept:
                    continue
            if self.prints is None:
                self.prints = Prints.__new__(Prints)
            self.prints.take(entry.serial, entry.record)
        return 0

    cdef Entry _find(self, uint64_t serial):
        cdef Entry entry
        cdef list entries
        cdef Py_ssize_t low, high, middle
        for entries in (self._pending, self._under_way):
            if entries is None:
                continue
            low, high = 0, len(entries)         # sorted by serial, and may be many while a disk is slow
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
