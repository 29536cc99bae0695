from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext.budget cimport Share
from ext.dedup cimport DedupWindow, Id
from ext.prints cimport Prints
from ext.meter cimport Meter
from ext.rate cimport Rate
from ext.ring cimport Ring


cdef class Entry:
    cdef readonly Log log
    cdef readonly uint64_t serial, origin
    cdef readonly uint64_t previous     # the serial of the one before it in its log; set when it is taken
    cdef readonly uint32_t flags, count
    cdef readonly bytes record
    cdef readonly object completion
    cdef readonly list followers        # of a repeat: (completion, first index, count); None while there are none


cdef class Log:
    cdef readonly str key
    cdef public str series
    cdef public bint kept
    cdef public bint synced             # what is kept is synced before it is visible
    cdef public str retention           # the journal's class for it
    cdef public bint persisted          # beyond the continuity window
    cdef public Meter meter             # its app's; None: nobody counts
    cdef public Share share             # of the memory for rings and streams, its app's; None: it is not bounded in all
    cdef public Rate incoming           # what may be published here in a second; None: any number
    cdef public object outgoing         # a Shaper: what may be delivered from here; None: any number
    cdef public uint64_t most_bytes     # of one publish
    cdef public bint awake
    cdef public DedupWindow dedup
    cdef public DedupWindow earlier     # ids of earlier lives of the server; None: none of them counts any more
    cdef public bint recalled           # all of those are there
    cdef public dict held               # publishes that can't be decided yet, by publisher; None while there are none
    cdef public Prints prints           # what the journal does not keep; None: nothing of the kind was published
    cdef public Ring ring
    cdef public uint64_t head
    cdef public uint64_t last_stored
    cdef public int64_t last_used_ms
    cdef list _pending                  # entries that are staged, or None
    cdef list _under_way                # those of the batch that has been taken, or None

    cdef int show(self, uint64_t serial, bytes record, uint64_t origin, uint32_t flags) except -1
    cdef Entry _find(self, uint64_t serial)
    cdef bint holds_earlier(self, Id* id) noexcept
    cdef bint holds_any_earlier(self, uint32_t count, uint8_t* base, size_t size) noexcept
