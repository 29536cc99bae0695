cdef class Kept:
    cdef list _entries      # ext.log.entry.Entry, in order of their serials, none of them ephemeral; nobody changes it any more
