from libc.stdint cimport int64_t, uint64_t

from ext.log.dedup cimport DedupWindow
from ext.log.entry cimport Entry
from ext.log.prints cimport Prints
from ext.log.rate cimport Rate
from ext.log.view cimport View


cdef class Home(View):
    cdef public object sequence         # the Sequence of its partition
    cdef public bint kept
    cdef public bint synced             # kept entries are synced before they are visible
    cdef public str retention           # the journal's class for it
    cdef public bint persisted          # beyond the continuity window
    cdef public Rate incoming           # limit on messages and bytes per second; None: unlimited
    cdef public uint64_t max_bytes     # of one publish
    cdef public bint awake
    cdef public DedupWindow dedup
    cdef public DedupWindow earlier     # ids of earlier lives of the server; None: none of them counts any more
    cdef public bint recalled           # all of those have been read back
    cdef public dict held               # publishes that can't be decided yet, by publisher; None while there are none
    cdef public Prints prints           # of entries that the journal does not keep; None: there were none
    cdef public uint64_t last_stored
    cdef public int64_t last_used_ms
    cdef list _pending                  # entries that are staged, or None
    cdef list _under_way                # those of the current batch, or None

    cdef int note_shown(self, list entries) except -1
    cdef Entry _find(self, uint64_t serial)
