cdef class Kept:
    cdef list _entries      # ext.log.entry.Entry, by serial, none ephemeral; no longer changed
