# cython: language_level=3
"""One append's blocks as rows for the store: one pass, without Python for what goes where the one before it went.

    (channel, retention, series, entries) ...      class and time as before?  no: ask for the bucket
         -> (family, key, value) ...               entries beyond the bucket's end go to the next one

Nothing is written here, nor noted: if a block cannot be stored, nothing has happened."""
cimport cython
from cpython.object cimport Py_EQ, PyObject_RichCompareBool
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from ext.block cimport encode_rows

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    unsigned long long PyLong_AsUnsignedLongLong(object number) except? 0xFFFFFFFFFFFFFFFF


@cython.final
cdef class Rows:
    """What an append is made of.

    ``rows`` are for the store; ``placed`` says which channels will be new in which buckets (bucket, channel).
    ``newest`` is the greatest serial, ``entries`` counts them, and ``size`` the bytes of the values.
    """

    cdef readonly list rows, placed
    cdef readonly uint64_t newest, entries, size

    def __init__(self, blocks, uint64_t head, find):
        """
        Args:
            blocks: of each a tuple: channel key, retention class, series, entries (serial, previous, record), ascending.
            head: all serials have to be greater.
            find: (class, serial) -> (bucket, family, first serial, end serial, known), where ``known`` are the channels
                that need not be placed, or None: none needs to be.
        Raises: ValueError, for what no store may be asked to hold; and what ``find`` raises.
        """
        cdef dict last = {}
        cdef tuple entries, found
        cdef object retention = None, bucket = None, family = None, known = None, block, channel, wanted, before
        cdef uint64_t first = 0, end = 0, oldest, newest
        cdef size_t at, stop, count
        self.rows = []
        self.placed = []
        self.newest = head
        for block in blocks:
            if not isinstance(block, tuple) or PyTuple_GET_SIZE(block) != 4:
                raise TypeError("a block is a tuple of channel, retention, series, entries")
            channel = <object>PyTuple_GET_ITEM(block, 0)
            wanted = <object>PyTuple_GET_ITEM(block, 1)
            entries = tuple(<object>PyTuple_GET_ITEM(block, 3))     # it cannot change while it is read
            before = last.get(channel)
            newest = head if before is None else <uint64_t>before
            count = <size_t>PyTuple_GET_SIZE(entries)
            if count == 0:
                raise ValueError(f"{channel}: a block without entries")
            at = 0
            while at < count:
                oldest = _serial(channel, entries, at)
                if not (first <= oldest < end and (wanted is retention
                                                   or PyObject_RichCompareBool(wanted, retention, Py_EQ))):
                    if oldest <= newest:
                        raise ValueError(f"{channel}: serial {oldest} does not follow {newest}")
                    found = find(wanted, oldest)
                    bucket, family, first, end, known = found
                    retention = wanted
                stop = count if _serial(channel, entries, count - 1) < end else _split(channel, entries, at, count, end)
                self._encode(channel, <object>PyTuple_GET_ITEM(block, 2), family, entries, at, stop, newest)
                if known is not None and channel not in <set?>known:
                    self.placed.append((bucket, channel))
                newest = _serial(channel, entries, stop - 1)
                at = stop
            last[channel] = newest
            self.entries += count
            if newest > self.newest:
                self.newest = newest

    cdef int _encode(self, object channel, object series, object family, tuple entries, size_t start, size_t stop,
                     uint64_t before) except -1:
        cdef Py_ssize_t length, series_length
        cdef const char* name
        cdef const char* life
        try:
            name = PyUnicode_AsUTF8AndSize(channel, &length)
            life = PyUnicode_AsUTF8AndSize(series, &series_length)
            self.size += encode_rows(self.rows, family, name, <size_t>length, life, <size_t>series_length, entries,
                                      start, stop, before)
        except ValueError as error:
            raise ValueError(f"{channel}: {error}") from error
        return 0


cdef uint64_t _serial(object channel, tuple entries, size_t at) except? 0:
    """Of the entry at this place. What else an entry has to be is looked at where it is encoded."""
    cdef object entry = <object>PyTuple_GET_ITEM(entries, <Py_ssize_t>at)
    if not isinstance(entry, tuple) or PyTuple_GET_SIZE(entry) != 3:
        raise TypeError("an entry is a tuple of serial, previous, record")
    try:
        return PyLong_AsUnsignedLongLong(<object>PyTuple_GET_ITEM(entry, 0))
    except OverflowError:
        raise ValueError(f"{channel}: serials are of 64 bits, got {entry[0]}") from None


cdef size_t _split(object channel, tuple entries, size_t low, size_t high, uint64_t end) except 0:
    """The place of the first entry with a serial of at least ``end``; the one at ``low`` has a smaller one."""
    cdef size_t middle
    while low < high:
        middle = (low + high) // 2
        if _serial(channel, entries, middle) < end:
            low = middle + 1
        else:
            high = middle
    return low
