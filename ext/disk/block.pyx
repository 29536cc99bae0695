# cython: language_level=3, auto_pickle=False, autotestdict=False
"""A block, the data of one append to one channel, as a row of bytes: divided, checksummed, written and read.

    key      channel key, UTF-8 | 00 | first serial, 8 bytes
    value    version 1 | crc32 4 | series 8 | count 4 | columns | records, back to back
    columns  serial 8 * count | previous 8 * count | size 4 * count

All numbers are big-endian, so keys sort by serial. A channel key has no control characters, so no key of one channel is
a prefix of another channel's key. The crc is that of zlib, over the key, then the value from the series on; its seed is
the version byte. So it detects a flipped bit anywhere, and an intact value under another key.

Writing and reading are each one pass over memory that is allocated once: a value is written to its final place."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_Check, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

cdef extern from "Python.h":
    unsigned long long PyLong_AsUnsignedLongLong(object number) except? 0xFFFFFFFFFFFFFFFF
    object PyLong_FromUnsignedLongLong(unsigned long long number)
    void PyTuple_SET_ITEM(PyObject* row, Py_ssize_t at, object item)
    object PyUnicode_DecodeASCII(const char* data, Py_ssize_t size, const char* errors)

cdef extern from *:
    """
    static PyObject* new_row(PyObject* make) { return ((PyTypeObject*)make)->tp_alloc((PyTypeObject*)make, 4); }
    """
    PyObject* new_row(PyObject* make) except NULL

MAX_ENTRIES = 512           # readers decode whole blocks, to check them:
MAX_BYTES = 256 * 1024      # these bound the cost of a page of one entry. One entry always fits, however large

cdef enum:
    _MAX_ENTRIES = 512
    _MAX_BYTES = 256 * 1024
    VERSION = 1
    SUM_AT = 1
    SUM_FROM = 5
    COUNT_AT = 13
    HEAD = 17
    ENTRY = 20              # bytes of columns, per entry
    SERIES = 8
    SERIAL = 8
    LARGEST_RECORD = 1 << 30        # far above any limit on messages; a size is 4 bytes

cdef uint32_t SUMS[16][256]         # SUMS[n][byte]: what the byte adds to the sum when n bytes follow it


cdef void _fill_sums() noexcept:
    cdef uint32_t value
    cdef int i, n
    for i in range(256):
        value = <uint32_t>i
        for n in range(8):
            value = (value >> 1) ^ (0xEDB88320u if value & 1 else 0)
        SUMS[0][i] = value
    for i in range(256):
        for n in range(1, 16):
            SUMS[n][i] = (SUMS[n - 1][i] >> 8) ^ SUMS[0][SUMS[n - 1][i] & 255]

_fill_sums()


cdef uint32_t _sum(uint32_t seed, const uint8_t* at, size_t size) noexcept nogil:
    """zlib's crc32, 16 bytes per step: as fast as zlib on long input, and without a Python call on short input."""
    cdef uint32_t crc = ~seed
    while size >= 16:
        crc ^= at[0] | (<uint32_t>at[1] << 8) | (<uint32_t>at[2] << 16) | (<uint32_t>at[3] << 24)
        crc = (SUMS[15][crc & 255] ^ SUMS[14][(crc >> 8) & 255] ^ SUMS[13][(crc >> 16) & 255] ^ SUMS[12][crc >> 24]
               ^ SUMS[11][at[4]] ^ SUMS[10][at[5]] ^ SUMS[9][at[6]] ^ SUMS[8][at[7]]
               ^ SUMS[7][at[8]] ^ SUMS[6][at[9]] ^ SUMS[5][at[10]] ^ SUMS[4][at[11]]
               ^ SUMS[3][at[12]] ^ SUMS[2][at[13]] ^ SUMS[1][at[14]] ^ SUMS[0][at[15]])
        at += 16
        size -= 16
    while size:
        crc = (crc >> 8) ^ SUMS[0][(crc ^ at[0]) & 255]
        at += 1
        size -= 1
    return ~crc


cdef inline void _put(uint8_t* at, uint64_t value, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        at[i] = <uint8_t>(value >> (8 * (size - 1 - i)))


cdef inline uint64_t _get(const uint8_t* at, int size) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(size):
        value = value << 8 | at[i]
    return value


cdef void _write(uint8_t* value, const uint8_t* key, size_t key_size, const uint8_t* series,
                 const Item* entries, size_t count, size_t size) noexcept nogil:
    """Write the value of a block of ``size`` bytes, into memory of that size."""
    cdef uint8_t* serials = value + HEAD
    cdef uint8_t* previous = serials + SERIAL * count
    cdef uint8_t* sizes = previous + SERIAL * count
    cdef uint8_t* record = sizes + 4 * count
    cdef size_t n
    value[0] = VERSION
    memcpy(value + SUM_FROM, series, SERIES)
    _put(value + COUNT_AT, count, 4)
    for n in range(count):
        _put(serials + SERIAL * n, entries[n].serial, SERIAL)
        _put(previous + SERIAL * n, entries[n].previous, SERIAL)
        _put(sizes + 4 * n, entries[n].size, 4)
        memcpy(record, entries[n].record, entries[n].size)
        record += entries[n].size
    _put(value + SUM_AT, _sum(_sum(VERSION, key, key_size), value + SUM_FROM, size - SUM_FROM), 4)


cdef size_t _row(list rows, object family, const char* channel, size_t length, const char* series,
                 const Item* entries, size_t count, size_t record_bytes) except 0:
    """Append a row; returns the size of its value."""
    cdef size_t size = HEAD + ENTRY * count + record_bytes
    cdef bytes key = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(length + 1 + SERIAL))
    cdef bytes value = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef uint8_t* at = <uint8_t*>PyBytes_AS_STRING(key)
    memcpy(at, channel, length)
    at[length] = 0
    _put(at + length + 1, entries[0].serial, SERIAL)
    _write(<uint8_t*>PyBytes_AS_STRING(value), at, length + 1 + SERIAL, <const uint8_t*>series, entries, count, size)
    rows.append((key, value) if family is None else (family, key, value))
    return size


cdef int fill_item(Item* into, object entry) except -1:
    """Read one entry; ``into`` borrows its record. Raises: ValueError, TypeError."""
    cdef object record
    if not PyTuple_Check(entry) or PyTuple_GET_SIZE(entry) != 3:
        raise TypeError("an entry is a tuple of serial, previous, record")
    try:
        into.serial = PyLong_AsUnsignedLongLong(<object>PyTuple_GET_ITEM(entry, 0))
        into.previous = PyLong_AsUnsignedLongLong(<object>PyTuple_GET_ITEM(entry, 1))
    except OverflowError:
        raise ValueError(f"serials are of 64 bits, got {entry[0]} (previous {entry[1]})") from None
    record = <object>PyTuple_GET_ITEM(entry, 2)
    if not PyBytes_CheckExact(record):
        raise TypeError("a record is bytes")
    into.record = <const uint8_t*>PyBytes_AS_STRING(record)
    into.size = <size_t>PyBytes_GET_SIZE(record)
    return 0


def encode(bytes channel not None, bytes series not None, entries, before):
    """The rows (key, value) of entries that are appended together; several, if they exceed the bounds of a block.

    Args:
        entries: list or tuple of tuples (serial, previous, record), ascending.
        before: the first serial must be greater.
    Raises: ValueError, the channel key contains a NUL, the series does not have 8 bytes, there is no entry, a serial
        does not follow the one before it, or a record is too large. TypeError, a value has another type.
    """
    cdef list rows = []
    cdef tuple held = tuple(entries)    # a tuple does not change or release its records while they are borrowed
    cdef size_t count = <size_t>PyTuple_GET_SIZE(held), n
    cdef Item* items = <Item*>PyMem_Malloc((count + 1) * sizeof(Item))
    if items is NULL:
        raise MemoryError(f"no memory for {count} entries")
    try:
        for n in range(count):
            fill_item(&items[n], <object>PyTuple_GET_ITEM(held, <Py_ssize_t>n))
        encode_rows(rows, None, PyBytes_AS_STRING(channel), <size_t>PyBytes_GET_SIZE(channel), PyBytes_AS_STRING(series),
                    <size_t>PyBytes_GET_SIZE(series), items, count, PyLong_AsUnsignedLongLong(before))
    finally:
        PyMem_Free(items)
    return rows


cdef size_t encode_rows(list rows, object family, const char* channel, size_t length, const char* series,
                        size_t series_length, const Item* items, size_t count, uint64_t before) except 0:
    """Append the rows of these entries; returns the bytes of their values. See ``encode``.

    Args:
        family: the first item of each row, before key and value; None: no such item.
    """
    cdef size_t start = 0, size = 0, bytes_in_all = 0, n
    if count == 0:
        raise ValueError("a block without entries")
    if series_length != SERIES:
        raise ValueError(f"a series has 8 characters, got {series[:series_length]!r}")
    if memchr(channel, 0, length) is not NULL:
        raise ValueError("a channel key cannot have a NUL in it")
    for n in range(count):
        if items[n].serial <= before or items[n].previous >= items[n].serial:
            raise ValueError(f"serial {items[n].serial} (previous {items[n].previous}) does not follow {before}")
        if items[n].size > LARGEST_RECORD:
            raise ValueError(f"a record of {items[n].size} bytes; {1 << 30} are the most")
        before = items[n].serial
        if n > start and (n - start == _MAX_ENTRIES or size + items[n].size > _MAX_BYTES):
            bytes_in_all += _row(rows, family, channel, length, series, items + start, n - start, size)
            start = n
            size = 0
        size += items[n].size
    return bytes_in_all + _row(rows, family, channel, length, series, items + start, count - start, size)


def decode(bytes key not None, bytes value not None, make):
    """The entries of a block, ascending, each as ``make`` (a class of tuples): serial, previous, series, record.

    Raises: ValueError with the reason, if any bit of key or value is not as written.
    """
    if not (isinstance(make, type) and issubclass(make, tuple)):
        raise TypeError("entries can only be made as tuples")
    cdef OpenBlock block
    cdef Place place
    open_block(&block, key, value)
    cdef object series = PyUnicode_DecodeASCII(<const char*>block.series, SERIES, NULL)
    cdef list entries = [None] * <Py_ssize_t>block.count
    cdef object entry
    cdef size_t n
    for n in range(block.count):
        next_place(&block, &place)
        entry = _entry(
            make,
            place.serial,
            place.previous,
            series,
            PyBytes_FromStringAndSize(<const char*>place.record, <Py_ssize_t>place.size),
        )
        entries[n] = entry
    end_block(&block)
    return entries


cdef int open_block(OpenBlock* block, bytes key, bytes value) except -1:
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(value)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(value)
    cdef uint64_t count
    if size < HEAD:
        raise ValueError(f"a block of {size} bytes, shorter than its head")
    if _get(at + SUM_AT, 4) != _sum(
        _sum(at[0], <const uint8_t*>PyBytes_AS_STRING(key), <size_t>PyBytes_GET_SIZE(key)), at + SUM_FROM, size - SUM_FROM
    ):
        raise ValueError(f"checksum mismatch in the block at {key[-8:].hex()}")
    if at[0] != VERSION:
        raise ValueError(f"block version {at[0]}; this server reads {VERSION}")
    count = _get(at + COUNT_AT, 4)
    if count == 0 or count > (size - HEAD) // ENTRY:
        raise ValueError(f"{count} entries announced in {size} bytes")
    block.count = <size_t>count
    block.series = at + SUM_FROM
    block._serials = at + HEAD
    block._previous = block._serials + SERIAL * block.count
    block._sizes = block._previous + SERIAL * block.count
    block._record = block._sizes + 4 * block.count
    block._end = at + size
    block._taken = 0
    block._left = block.count
    block._before = block._end
    return 0


cdef int next_place(OpenBlock* block, Place* place) except -1:
    cdef size_t n = block._taken, left = <size_t>(block._end - block._record)
    place.serial = _get(block._serials + SERIAL * n, SERIAL)
    place.previous = _get(block._previous + SERIAL * n, SERIAL)
    place.record = block._record
    place.size = <size_t>_get(block._sizes + 4 * n, 4)
    if place.size > left:
        raise ValueError(f"a record ends {place.size - left} bytes beyond the block")
    block._record += place.size
    block._taken = n + 1
    return 0


cdef int end_block(OpenBlock* block) except -1:
    if block._record != block._end:
        raise ValueError(f"records end {block._end - block._record} bytes before the block")
    return 0


cdef bint place_before(OpenBlock* block, Place* place) except? True:
    cdef size_t n, held
    if block._left == 0:
        if block._before != block._record:
            raise ValueError(f"records begin {block._before - block._record} bytes behind the columns")
        return False
    n = block._left - 1
    held = <size_t>(block._before - block._record)
    place.serial = _get(block._serials + SERIAL * n, SERIAL)
    place.previous = _get(block._previous + SERIAL * n, SERIAL)
    place.size = <size_t>_get(block._sizes + 4 * n, 4)
    if place.size > held:
        raise ValueError(f"a record begins {place.size - held} bytes before the records do")
    block._before -= place.size
    place.record = block._before
    block._left = n
    return True


cdef inline object _entry(object make, uint64_t serial, uint64_t previous, object series, bytes record):
    cdef object first = PyLong_FromUnsignedLongLong(serial), second = PyLong_FromUnsignedLongLong(previous)
    cdef PyObject* row = new_row(<PyObject*>make)
    _fill(row, 0, first)
    _fill(row, 1, second)
    _fill(row, 2, series)
    _fill(row, 3, record)
    entry = <object>row
    _release(row)               # the new reference, now held by ``entry``
    return entry


cdef inline void _fill(PyObject* row, Py_ssize_t at, object item) noexcept:
    Py_INCREF(item)             # the row takes this reference
    PyTuple_SET_ITEM(row, at, item)


cdef extern from "Python.h":
    void _release "Py_DECREF"(PyObject* item)
