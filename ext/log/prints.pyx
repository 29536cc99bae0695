# cython: language_level=3
"""Fingerprints of entries that no journal keeps, by serial. A repeat is compared with them once the entry has left the
ring.

    chunk -> chunk -> chunk     oldest first; a chunk has the prints of up to MAX_PRINTS entries, of 8 bytes each
    print    serial - the chunk's | sum         serials grow, so a print is found by bisection

The sum is 32 bits of a keyed hash of the published content. One in four thousand million pairs that differ is taken for
equal, and such a pair can only be found by asking the server."""
from os import urandom

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from ext.text.msgpack_input cimport In, Item, read_item
from ext.text.words cimport eight_at

cdef extern from *:
    """
    static inline unsigned long long folded(unsigned long long a, unsigned long long b) {
        unsigned __int128 product = (unsigned __int128)a * b;
        return (unsigned long long)product ^ (unsigned long long)(product >> 64);
    }
    """
    uint64_t folded(uint64_t a, uint64_t b) noexcept nogil

cdef enum:
    FIRST_PRINTS = 2
    MAX_PRINTS = 4096          # the most that is moved when a chunk grows, and freed at once when it is past

cdef uint64_t[4] _key           # of this process: no print outlives it


cdef void _make_key() noexcept:
    cdef bytes secret = urandom(32)
    memcpy(_key, <const char*>secret, 32)

_make_key()


cdef uint32_t _sum(const uint8_t* data, size_t size) noexcept nogil:
    """Sixteen bytes per multiplication, as in wyhash: about 10 ns for a message of 128 bytes."""
    cdef uint64_t state = _key[0] ^ size
    cdef uint64_t[2] tail
    while size > 16:
        state = folded(eight_at(data) ^ _key[1], eight_at(data + 8) ^ state)
        data += 16
        size -= 16
    tail[0] = tail[1] = 0
    memcpy(tail, data, size)
    state = folded(tail[0] ^ _key[1], tail[1] ^ state)
    return <uint32_t>(folded(state ^ _key[2], _key[3]) >> 32)


cdef uint32_t _print_of(bytes record) noexcept:
    """The sum of everything but the ids of the publish and its connection, which come first in the record."""
    cdef In source
    cdef Item item
    source.data = <const uint8_t*><const char*>record
    source.size = <size_t>len(record)
    source.at = 1                               # the head of an array of five
    read_item(&source, &item)
    read_item(&source, &item)
    return _sum(source.data + source.at, source.size - source.at)


def print_of(bytes record not None):
    return _print_of(record)


@cython.final
cdef class Prints:
    """The fingerprints of one channel."""

    def __dealloc__(self):
        while self._oldest is not NULL:
            self._let_go()

    def __len__(self):
        return <Py_ssize_t>self._count

    @property
    def memory(self):
        """Bytes allocated."""
        cdef uint64_t total = 0
        cdef Chunk* chunk = self._oldest
        while chunk is not NULL:
            total += sizeof(Chunk) + chunk.room * sizeof(Print)
            chunk = chunk.younger
        return total

    def add(self, uint64_t serial, bytes record not None):
        """Remember an entry, whose serial is greater than all before. Raises: ValueError, it is not."""
        self.take(serial, record)

    def matches(self, uint64_t serial, bytes record not None):
        """Does the entry with this serial have the same content as this record? None: it is not remembered."""
        cdef Chunk* chunk = self._oldest
        cdef uint32_t low = 0, high, middle
        while chunk is not NULL and chunk.younger is not NULL and chunk.younger.serial <= serial:
            chunk = chunk.younger
        if chunk is NULL or chunk.serial > serial:
            return None
        high = chunk.count
        while low + 1 < high:
            middle = (low + high) // 2
            if chunk.serial + chunk.prints[middle].after <= serial:
                low = middle
            else:
                high = middle
        if chunk.serial + chunk.prints[low].after != serial:
            return None
        return chunk.prints[low].sum == _print_of(record)

    def trim(self, uint64_t serial):
        """Forget entries up to and including this serial, a chunk at a time: some of them only later."""
        while self._oldest is not NULL and self._newest_of(self._oldest) <= serial:
            self._let_go()

    cdef int take(self, uint64_t serial, bytes record) except -1:
        cdef Chunk* chunk = self._newest
        cdef uint32_t room
        if serial <= self._last and self._last:
            raise ValueError(f"serial {serial} does not come after {self._last}")
        if chunk is NULL or chunk.count == MAX_PRINTS or serial - chunk.serial > 0xFFFFFFFFu:
            chunk = self._resized(NULL, FIRST_PRINTS)
            chunk.younger = NULL
            chunk.serial = serial
            chunk.count = 0
            if self._newest is NULL:
                self._oldest = chunk
            else:
                self._newest.younger = chunk
            self._before_newest = self._newest
            self._newest = chunk
        elif chunk.count == chunk.room:
            chunk = self._resized(chunk, min(chunk.room * 2, <uint32_t>MAX_PRINTS))
            if self._before_newest is NULL:
                self._oldest = chunk
            else:
                self._before_newest.younger = chunk
            self._newest = chunk
        chunk.prints[chunk.count].after = <uint32_t>(serial - chunk.serial)
        chunk.prints[chunk.count].sum = _print_of(record)
        chunk.count += 1
        self._count += 1
        self._last = serial
        return 0

    cdef Chunk* _resized(self, Chunk* chunk, uint32_t room) except NULL:
        cdef Chunk* grown = <Chunk*>realloc(chunk, sizeof(Chunk) + room * sizeof(Print))
        if grown is NULL:
            raise MemoryError("no memory for more fingerprints")
        grown.room = room
        return grown

    cdef uint64_t _newest_of(self, const Chunk* chunk) noexcept nogil:
        return chunk.serial + chunk.prints[chunk.count - 1].after

    cdef void _let_go(self) noexcept nogil:
        cdef Chunk* chunk = self._oldest
        self._count -= chunk.count
        self._oldest = chunk.younger
        if self._before_newest is chunk:
            self._before_newest = NULL
        if self._oldest is NULL:
            self._newest = NULL
        free(chunk)
