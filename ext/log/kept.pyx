# cython: language_level=3
"""A log's entries for the journal, as a sequence of (serial, previous, record).

    Kept -> entries in place: ext/disk/rows.pyx makes rows of them, without an object for each
         -> tuples, made on demand, for all other callers, which are rare"""
cimport cython

from ext.log.entry cimport Entry


@cython.final
cdef class Kept:
    """See above. ``entries``: of one log, by serial, each with the serial of the one before; not changed from now
    on."""

    def __init__(self, list entries not None):
        cdef object entry
        for entry in entries:
            if type(entry) is not Entry:
                raise TypeError("what is kept are entries of a log")
        self._entries = entries

    def __len__(self):
        return len(self._entries)

    def __getitem__(self, Py_ssize_t at):
        cdef Entry entry = self._entries[at]
        return entry.serial, entry.previous, entry.record

    def __iter__(self):
        cdef Entry entry
        return iter([(entry.serial, entry.previous, entry.record) for entry in self._entries])
