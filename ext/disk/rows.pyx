# cython: language_level=3
"""The blocks of one append as rows for the store, in one pass, without Python for blocks of the same bucket as before.

    (channel, retention, series, entries) ...      class and time as before?  no: ask for the bucket
         -> (family, key, value) ...               entries beyond the bucket's end go to the next one

Nothing is written or recorded here. A block that the store cannot hold has no rows; the others are not affected."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport Py_EQ, PyObject_RichCompareBool
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

from ext.disk.block cimport Item, encode_rows, fill_item
from ext.log.kept cimport Kept
from ext.log.entry cimport Entry

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    FEW_ITEMS = 64          # of a block: initial capacity


@cython.final
cdef class Rows:
    """The rows of an append.

    ``rows`` are for the store; ``placed`` lists channels that will be new in a bucket (bucket, channel).
    ``refused`` are the channels whose block can't be stored, and why. ``newest`` is the greatest serial of all others.
    """

    cdef readonly list rows, placed
    cdef readonly dict refused
    cdef readonly uint64_t newest
    cdef Item* _items           # the entries of the current block
    cdef size_t _room

    def __dealloc__(self):
        PyMem_Free(self._items)

    def __init__(self, blocks, uint64_t head, find):
        """
        Args:
            blocks: for each a tuple: channel key, retention class, series, and entries, ascending: (serial, previous,
                record), or a ``Kept``.
            head: all serials must be greater.
            find: (class, serial) -> (bucket, family, first serial, end serial, known), where ``known`` are the channels
                that need not be placed, or None: none needs to be.
        Raises: TypeError, for anything that is not a block; and what ``find`` raises, except ValueError: the class is
            unknown.
        """
        cdef dict last = {}
        cdef tuple found
        cdef object retention = None, bucket = None, family = None, known = None, block, channel, wanted, before, held
        cdef uint64_t first = 0, end = 0, newest
        cdef size_t at, stop, count
        cdef Py_ssize_t rows, placed
        self.rows = []
        self.placed = []
        self.refused = {}
        self.newest = head
        for block in blocks:
            if not isinstance(block, tuple) or PyTuple_GET_SIZE(block) != 4:
                raise TypeError("a block is a tuple of channel, retention, series, entries")
            channel = <object>PyTuple_GET_ITEM(block, 0)
            wanted = <object>PyTuple_GET_ITEM(block, 1)
            held = <object>PyTuple_GET_ITEM(block, 3)
            if type(held) is not Kept:
                held = tuple(held)          # it does not change or release its records while they are borrowed
            rows, placed = PyList_GET_SIZE(self.rows), PyList_GET_SIZE(self.placed)
            try:
                count = self._fill(channel, held)
                before = last.get(channel)
                newest = head if before is None else <uint64_t>before
                at = 0
                while at < count:
                    if not (first <= self._items[at].serial < end
                            and (wanted is retention or PyObject_RichCompareBool(wanted, retention, Py_EQ))):
                        if self._items[at].serial <= newest:
                            raise ValueError(f"{channel}: serial {self._items[at].serial} does not follow {newest}")
                        found = find(wanted, self._items[at].serial)
                        bucket, family, first, end, known = found
                        retention = wanted
                    stop = at + 1
                    while stop < count and self._items[stop].serial < end:
                        stop += 1
                    self._encode(channel, <object>PyTuple_GET_ITEM(block, 2), family, at, stop - at, newest)
                    if known is not None and channel not in <set?>known:
                        self.placed.append((bucket, channel))
                    newest = self._items[stop - 1].serial
                    at = stop
            except ValueError as error:
                del self.rows[rows:]
                del self.placed[placed:]
                self.refused[channel] = str(error)
                continue
            last[channel] = newest
            if newest > self.newest:
                self.newest = newest

    cdef size_t _fill(self, object channel, object held) except 0:
        """Read the entries of a block in place; returns their number."""
        cdef list entries = (<Kept>held)._entries if type(held) is Kept else None
        cdef size_t count = <size_t>(PyList_GET_SIZE(entries) if entries is not None else PyTuple_GET_SIZE(held)), n
        cdef Item* items
        cdef Entry entry
        if count == 0:
            raise ValueError(f"{channel}: a block without entries")
        if count > self._room:
            items = <Item*>PyMem_Realloc(self._items, max(count, <size_t>FEW_ITEMS) * sizeof(Item))
            if items is NULL:
                raise MemoryError(f"no memory for {count} entries")
            self._items = items
            self._room = max(count, <size_t>FEW_ITEMS)
        items = self._items
        if entries is not None:
            for n in range(count):
                entry = <Entry>PyList_GET_ITEM(entries, <Py_ssize_t>n)
                items[n].serial = entry.serial
                items[n].previous = entry.previous
                items[n].record = <const uint8_t*>PyBytes_AS_STRING(entry.record)
                items[n].size = <size_t>PyBytes_GET_SIZE(entry.record)
            return count
        try:
            for n in range(count):
                fill_item(&items[n], <object>PyTuple_GET_ITEM(held, <Py_ssize_t>n))
        except ValueError as error:
            raise ValueError(f"{channel}: {error}") from error
        return count

    cdef int _encode(self, object channel, object series, object family, size_t start, size_t count,
                     uint64_t before) except -1:
        cdef Py_ssize_t length, series_length
        cdef const char* name
        cdef const char* life
        try:
            name = PyUnicode_AsUTF8AndSize(channel, &length)
            life = PyUnicode_AsUTF8AndSize(series, &series_length)
            encode_rows(self.rows, family, name, <size_t>length, life, <size_t>series_length, self._items + start, count,
                        before)
        except ValueError as error:
            raise ValueError(f"{channel}: {error}") from error
        return 0
