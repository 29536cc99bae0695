from libc.stdint cimport int64_t, uint64_t

from ext.log.dedup cimport DedupWindow
from ext.log.entry cimport Entry
from ext.log.prints cimport Prints
from ext.log.rate cimport Rate
from ext.log.view cimport View


cdef class Home(View):
    cdef public object sequence         # the Sequence of its partition
    cdef public bint kept
    cdef public bint synced             # what is kept is synced before it is visible
    cdef public str retention           # the journal's class for it
    cdef public bint persisted          # beyond the continuity window
    cdef public Rate incoming           # what may be published here in a second; None: any number
    cdef public uint64_t max_bytes     # of one publish
    cdef public bint awake
    cdef public DedupWindow dedup
    cdef public DedupWindow earlier     # ids of earlier lives of the server; None: none of them counts any more
    cdef public bint recalled           # all of those are there
    cdef public dict held               # publishes that can't be decided yet, by publisher; None while there are none
    cdef public Prints prints           # what the journal does not keep; None: nothing of the kind was published
    cdef public uint64_t last_stored
    cdef public int64_t last_used_ms
    cdef list _pending                  # entries that are staged, or None
    cdef list _under_way                # those of the batch that has been taken, or None

    cdef int note_shown(self, list entries) except -1
    cdef Entry _find(self, uint64_t serial)
