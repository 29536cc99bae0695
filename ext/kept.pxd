cdef class Kept:
    cdef list _entries      # ext.entry.Entry, in order of their serials, none of them ephemeral; nobody changes it any more
