# cython: language_level=3
"""The message ids that one channel has taken within its window: for each, the serial and index of its first use.

    bucket n     taken in the milliseconds [n * width, (n + 1) * width); width = window / (buckets - 1), rounded up
    expire       forgets whole buckets: n goes when (n + 1) * width + window <= clock; at most `buckets` are ever live

        clock - window - width        clock - window                           clock
              |   n   (may be partly past)  |     n + 1     |     n + 2     |    n + 3  |

    bucket       runs, for ids that connections count by themselves (ext/log/id_runs.pxd); for all others
                 one table; when that is large, 64 tables by the lowest bits of low, each of which grows by itself
    table        by the low half of the hash (ext/log/robin_hood.pxd)
        slot   [ hash, low 64 bits ][ serial ][ hash, 54 bits | index, 10 bits ]          24 bytes

A counted id for which the runs of its bucket have no place is a stray in the bucket's tables. While there are no
strays, a search for counted ids can skip the tables. Any other id is kept as 118 bits of its SipHash-2-4 under a secret
key. All of these bits are compared, so a collision is as likely as guessing the key, and cannot be searched for without
the key. Neither the id nor a Python object per id is kept.

Each call gives the time, which is not that of serials: these follow the wall clock, which can jump. The clock of a
window is the latest time that it was given."""
cimport cython
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ext.log.id_runs cimport (Run, Use, add_counted, bytes_of_runs, find_counted, free_runs, is_counted,
                              remove_counted, run_of)
from ext.log.robin_hood cimport Keyed, Slots, grown, has_room, home_of, put, search, take_out
from ext.text.siphash cimport Hash, siphash
from ext.text.words cimport le64toh

cdef extern from "<endian.h>" nogil:
    uint64_t htole64(uint64_t)

cdef extern from * nogil:
    void __builtin_prefetch(const void* address)

cdef enum:
    INDEX_BITS = 10
    INDEX_MASK = (1 << 10) - 1
    MAX_WIDTH = 1000               # an entry has at most this many messages
    LONGEST_COUNTED = 40            # characters of a counted id: 10 + 1 + 18 + 1 + 3, and a margin
    LARGEST_BUCKETS = 64            # every search looks into each live one
    # One table of 1,000,000 ids blocked everything for 40 ms when it grew; a 64th of it takes less than 1 ms.
    SPLIT_CAPACITY = 8192
    PARTS = 64
    LARGEST_CAPACITY = 1 << 30      # keeps capacity * 3 / 2 within its type

cdef uint64_t LARGEST_MS = (<uint64_t>1 << 48) - 1
cdef uint64_t LARGEST_WINDOW_MS = (<uint64_t>1 << 36) - 1      # two years; keeps the sums of times within their types

cdef int _read_key(bytes key, uint64_t* words) except -1:
    if len(key) != 16:
        raise ValueError(f"a key has 16 bytes, got {len(key)}")
    memcpy(words, <const char*>key, 16)
    words[0] = le64toh(words[0])
    words[1] = le64toh(words[1])
    return 0


def siphash128(bytes key not None, bytes data not None):
    """SipHash-2-4 of ``data``, 16 bytes, under a key of 16 bytes (else ValueError)."""
    cdef uint64_t words[2]
    _read_key(key, words)
    cdef Hash hash = siphash(words[0], words[1], data, <size_t>len(data))
    hash.low = htole64(hash.low)
    hash.high = htole64(hash.high)
    return (<const char*>&hash)[:sizeof(Hash)]


# ---- one table

cdef inline Slots _slots_of(const Table* table) noexcept nogil:
    cdef Slots slots
    slots.data = <uint8_t*>table.slots
    slots.size = sizeof(Slot)
    slots.capacity = table.capacity
    return slots


cdef inline Slot _slot_of(Hash hash, uint32_t index, uint64_t serial) noexcept nogil:
    cdef Slot slot
    slot.keyed.key = hash.low
    slot.keyed.serial = serial
    slot.high = (hash.high & ~<uint64_t>INDEX_MASK) | index
    return slot


cdef Slot* _search(const Table* table, Hash hash) noexcept nogil:
    """The slot of an id, or NULL."""
    cdef Slot* slot = <Slot*>search(_slots_of(table), hash.low, NULL)
    while slot is not NULL and slot.high >> INDEX_BITS != hash.high >> INDEX_BITS:
        slot = <Slot*>search(_slots_of(table), hash.low, &slot.keyed)
    return slot


cdef void _place(Table* table, Slot item) noexcept nogil:
    """Insert an id that is not in the table; there must be space."""
    put(_slots_of(table), &item.keyed)
    table.used += 1


cdef void _take_out(Table* table, Slot* slot) noexcept nogil:
    take_out(_slots_of(table), &slot.keyed)
    table.used -= 1


cdef bint _resize(Table* table, uint32_t capacity) noexcept nogil:
    """Move to a larger array of slots. False: no memory, and nothing has changed."""
    cdef Table larger
    cdef uint32_t at
    larger.slots = <Slot*>calloc(capacity, sizeof(Slot))
    larger.capacity = capacity
    larger.used = 0
    if larger.slots is NULL:
        return False
    for at in range(table.capacity):            # both are in hash order: reads and writes are sequential
        if table.slots[at].keyed.serial != 0:
            _place(&larger, table.slots[at])
    free(table.slots)
    table[0] = larger
    return True


cdef bint _make_room(Table* table) noexcept nogil:
    """Make space for one more id. False: no memory, and nothing has changed."""
    cdef uint32_t capacity = grown(table.capacity)
    return has_room(table.used, table.capacity) or (capacity <= LARGEST_CAPACITY and _resize(table, capacity))


# ---- one bucket

cdef inline Table* _table(Bucket* bucket, uint64_t low) noexcept nogil:
    """The only table that may hold an id with this low half of its hash. (Other bits determine its home there.)"""
    return &bucket.whole if bucket.parts is NULL else &bucket.parts[low & (PARTS - 1)]


cdef void _free_parts(Table* parts) noexcept nogil:
    cdef int i
    if parts is not NULL:
        for i in range(PARTS):
            free(parts[i].slots)
        free(parts)


cdef void _empty(Bucket* bucket) noexcept nogil:
    free_runs(&bucket.runs)
    _free_parts(bucket.parts)
    free(bucket.whole.slots)
    memset(bucket, 0, sizeof(Bucket))


cdef bint _split(Bucket* bucket) noexcept nogil:
    """Split the table into parts. False: no memory, and nothing has changed."""
    cdef Table* whole = &bucket.whole
    cdef Table* parts = <Table*>calloc(PARTS, sizeof(Table))
    cdef Table* part
    cdef uint32_t at, capacity = whole.used // PARTS * 3 // 2   # most parts need not grow at once
    cdef int i
    if parts is NULL:
        return False
    for i in range(PARTS):
        if not _resize(&parts[i], capacity):
            _free_parts(parts)
            return False
    for at in range(whole.capacity):
        if whole.slots[at].keyed.serial != 0:
            part = &parts[whole.slots[at].keyed.key & (PARTS - 1)]
            if not _make_room(part):
                _free_parts(parts)
                return False
            _place(part, whole.slots[at])
    free(whole.slots)
    memset(whole, 0, sizeof(Table))
    bucket.parts = parts
    return True


cdef bint _insert(Bucket* bucket, Slot item) noexcept nogil:
    """Insert an id that is not in the bucket. False: no memory, and nothing has changed."""
    cdef Table* table
    if bucket.parts is NULL and bucket.whole.capacity >= SPLIT_CAPACITY and not _split(bucket):
        return False
    table = _table(bucket, item.keyed.key)
    if not _make_room(table):
        return False
    _place(table, item)
    return True


@cython.final
cdef class DedupWindow:
    """The used ids of one channel.

    An id that was taken at the time t is found while the clock is at most t + window_ms. It is gone when the clock has
    reached t + window_ms + width, where width = window_ms / (buckets - 1), rounded up to whole milliseconds. In between
    it goes with the other ids of its bucket. If the clock jumps far ahead, everything is forgotten at once. If it steps
    back, nothing changes.

    After ``expire``: ids added - ids removed - ids that expire has counted = len(window).
    """

    def __cinit__(self, bytes key not None, uint64_t window_ms=120_000, uint32_t buckets=4):
        """``key``: 16 secret bytes, the same for all windows of a data directory. ValueError: a number out of range."""
        cdef uint64_t words[2]
        _read_key(key, words)
        if window_ms == 0 or window_ms > LARGEST_WINDOW_MS:
            raise ValueError(f"window_ms must be 1 to {LARGEST_WINDOW_MS}, got {window_ms}")
        if buckets < 2 or buckets > LARGEST_BUCKETS:
            raise ValueError(f"buckets must be 2 to {LARGEST_BUCKETS}, got {buckets}")
        self._key0, self._key1 = words[0], words[1]
        self._window_ms = window_ms
        self._width_ms = (window_ms + buckets - 2) // (buckets - 1)
        self._bucket_count = buckets

    def __dealloc__(self):
        self._free_all()

    def __len__(self):
        """The number of ids held, including those whose write is not finished."""
        return <Py_ssize_t>self._count

    @property
    def memory(self):
        """Bytes allocated, including the object itself."""
        cdef uint64_t total = <uint64_t>object.__sizeof__(self)
        cdef uint32_t i
        cdef int j
        if self._buckets is not NULL:
            total += self._bucket_count * sizeof(Bucket)
            for i in range(self._bucket_count):
                total += self._buckets[i].whole.capacity * sizeof(Slot) + bytes_of_runs(self._buckets[i].runs)
                if self._buckets[i].parts is not NULL:
                    for j in range(PARTS):
                        total += sizeof(Table) + self._buckets[i].parts[j].capacity * sizeof(Slot)
        return total

    def find(self, str message_id not None):
        """(serial, index) of the first use of an id, even if its write is not finished; None: it is not held.

        Raises: UnicodeEncodeError (a ValueError), the id has a lone surrogate and so no bytes. So do all methods that
        take an id.
        """
        cdef Id id = self._id(message_id)
        return self._answer(&id)

    def add(self, str message_id not None, uint64_t serial, uint32_t index, uint64_t at_ms):
        """Remember the first use of an id, and advance the clock.

        An id is not kept if its time is already past the window, in a bucket that has been forgotten. (This happens at
        the beginning of a restore that starts too early.)

        Raises: ValueError, the id is held already, index is over 999, serial is 0 or at_ms has more than 48 bits;
        MemoryError. Nothing is remembered then.
        """
        cdef Id id = self._id(message_id)
        known = self._answer(&id)
        if known is not None:
            raise ValueError(f"{message_id!r} is held already, with (serial, index) = {known}")
        self.take(&id, serial, index, at_ms)

    def add_or_find(self, str message_id not None, uint64_t serial, uint32_t index, uint64_t at_ms):
        """Like ``find``; if that returns None, like ``add``."""
        cdef Id id = self._id(message_id)
        known = self._answer(&id)
        if known is None:
            self.take(&id, serial, index, at_ms)
        return known

    def add_all(self, str base not None, uint32_t width, uint64_t serial, uint64_t at_ms):
        """Remember the ids of a publish of several messages, ``<base>:0`` and so on, with their indexes. See
        ``add``."""
        text = base + ":0"                      # keeps the buffer alive that the id points to
        cdef Id id = self._id(text)
        if self.holds_some(&id, width):
            raise ValueError(f"some of the {width} ids of {base!r} are held already")
        self.take_all(&id, width, serial, at_ms)

    def remove(self, str message_id not None, uint64_t serial):
        """Forget an id whose write failed. False: it is not held with exactly this serial, and nothing has changed.

        Raises: ValueError, it is one of several ids of a counted publish.
        """
        cdef Found found
        cdef Id id = self._id(message_id)
        if not self._find(&id, &found) or found.serial != serial:
            return False
        if found.width > 1:
            raise ValueError(f"{message_id!r} is one of {found.width} ids that were taken together")
        self._drop(&found, &id)
        return True

    def remove_all(self, list message_ids not None, uint64_t serial):
        """Forget the ids of a publish whose write failed; returns how many were held with exactly this serial."""
        cdef Found found
        cdef Id id
        cdef uint64_t before = self._count
        for message_id in message_ids:
            id = self._id(message_id)
            if self._find(&id, &found) and found.serial == serial:
                self._drop(&found, &id)
        return before - self._count

    def expire(self, uint64_t at_ms):
        """Forget the buckets that are past the window at ``at_ms``, without looking into them.

        Returns: how many ids were forgotten since the previous call, by this call or by an ``add`` with a later time;
        ids that an ``add`` did not keep are included. Raises: ValueError, at_ms has more than 48 bits.
        """
        if at_ms > LARGEST_MS:
            raise ValueError(f"at_ms must be 0 to {LARGEST_MS}, got {at_ms}")
        self._advance(at_ms)
        forgotten = self._forgotten
        self._forgotten = 0
        return forgotten

    cdef Hash hash_of(self, const void* data, size_t size) noexcept nogil:
        """The hash under the key of all windows."""
        return siphash(self._key0, self._key1, <const char*>data, size)

    cdef Id id_of(self, const uint8_t* data, size_t size) noexcept nogil:
        """The id of these bytes (UTF-8). For callers without a str, with ``holds`` and ``take``."""
        cdef Id id
        id.data = data
        id.size = size
        id.is_hashed = False
        id.is_counted = is_counted(data, size, &id.origin, &id.number, &id.index)
        return id

    cdef void prefetch(self, Id* id) noexcept nogil:
        """Prefetch the memory that a search for this id will read."""
        cdef uint32_t i
        cdef Table* table
        if self._buckets is NULL or id.is_counted:
            return
        self._hash(id)
        for i in range(self._bucket_count):
            if self._buckets[i].used != 0:
                table = _table(&self._buckets[i], id.hash.low)
                if table.capacity:
                    __builtin_prefetch(&table.slots[home_of(id.hash.low, table.capacity)])

    cdef bint holds(self, Id* id) noexcept nogil:
        cdef Found found
        return self._find(id, &found)

    cdef bint holds_some(self, Id* id, uint32_t width) noexcept nogil:
        """Is any id held with the prefix of this one (whose index is 0), and an index below ``width``?"""
        cdef uint8_t text[LONGEST_COUNTED]
        cdef uint32_t i, index
        cdef uint64_t strays = 0
        cdef Id other
        if self.holds(id):
            return True
        if width == 1 or not id.is_counted or self._buckets is NULL:
            return False
        for i in range(self._bucket_count):
            strays += self._buckets[i].strays
        if strays == 0:                         # a run that has any of them has this one too
            return False
        for index in range(1, width):
            other = _at_index(id, index, text)
            if self.holds(&other):
                return True
        return False

    cdef Id _id(self, str message_id) except *:
        cdef Py_ssize_t size = 0
        cdef const char* data = PyUnicode_AsUTF8AndSize(message_id, &size)      # lives as long as the str
        return self.id_of(<const uint8_t*>data, <size_t>size)

    cdef void _hash(self, Id* id) noexcept nogil:
        if not id.is_hashed:
            id.hash = self.hash_of(id.data, id.size)
            id.is_hashed = True

    cdef bint _find(self, Id* id, Found* found) noexcept nogil:
        """Find where it is held, if it is."""
        cdef uint32_t i
        cdef Bucket* bucket
        cdef Run* run
        cdef Use use
        if self._buckets is NULL:
            return False
        for i in range(self._bucket_count):
            bucket = &self._buckets[i]
            if bucket.used == 0:
                continue
            found.bucket = bucket
            if id.is_counted:
                run = run_of(bucket.runs, id.origin)
                if run is not NULL and find_counted(run, id.number, &use) and id.index < use.width:
                    found.slot = NULL
                    found.serial = use.serial
                    found.index = <uint32_t>id.index
                    found.width = use.width
                    return True
                if bucket.strays == 0:
                    continue
            self._hash(id)
            found.slot = _search(_table(bucket, id.hash.low), id.hash)
            if found.slot is not NULL:
                found.serial = found.slot.keyed.serial
                found.index = <uint32_t>(found.slot.high & INDEX_MASK)
                found.width = 1
                return True
        return False

    cdef object _answer(self, Id* id):
        cdef Found found
        return (found.serial, found.index) if self._find(id, &found) else None

    cdef uint64_t _oldest(self) noexcept nogil:
        """The oldest bucket that is live: (n + 1) * width + window > clock."""
        return (self._clock_ms - self._window_ms) // self._width_ms if self._clock_ms >= self._window_ms else 0

    cdef void _advance(self, uint64_t at_ms) noexcept nogil:
        """Advance the clock, and drop the buckets that are past then."""
        cdef uint32_t i
        cdef uint64_t oldest
        if at_ms <= self._clock_ms:
            return
        self._clock_ms = at_ms
        if self._buckets is NULL:
            return
        oldest = self._oldest()
        for i in range(self._bucket_count):
            if self._buckets[i].used != 0 and self._buckets[i].number < oldest:
                self._forgotten += self._buckets[i].used
                self._count -= self._buckets[i].used
                _empty(&self._buckets[i])
        if self._count == 0:
            self._free_all()                    # an inactive channel costs no more than a new one

    cdef int take(self, Id* id, uint64_t serial, uint32_t index, uint64_t at_ms) except -1:
        """Remember an id that is not held."""
        if index >= MAX_WIDTH:
            raise ValueError(f"index must be 0 to {MAX_WIDTH - 1}, got {index}")
        if serial == 0 or at_ms > LARGEST_MS:
            raise ValueError(f"serial must not be 0, and at_ms at most {LARGEST_MS}; got {serial}, {at_ms}")
        if self.put(id, 1, serial, index, at_ms) < 0:
            raise MemoryError(f"no memory for more than {self._count} ids")
        return 0

    cdef int take_all(self, Id* id, uint32_t width, uint64_t serial, uint64_t at_ms) except -1:
        """Remember the ids of a publish, of which none is held: this one, which ends with ":0", and those with the
        other indexes below ``width``."""
        cdef Id other
        cdef Found found
        cdef uint32_t index
        cdef str base
        if width == 0 or width > MAX_WIDTH:
            raise ValueError(f"a publish has 1 to {MAX_WIDTH} messages, got {width}")
        if id.is_counted or width == 1:
            if serial == 0 or at_ms > LARGEST_MS:
                raise ValueError(f"serial must not be 0, and at_ms at most {LARGEST_MS}; got {serial}, {at_ms}")
            if self.put(id, width, serial, 0, at_ms) < 0:
                raise MemoryError(f"no memory for more than {self._count} ids")
            return 0
        base = (<const char*>id.data)[:id.size - 1].decode()
        for index in range(width):
            text = f"{base}{index}"             # keeps the buffer alive that the id points to
            other = self._id(text)
            try:
                self.take(&other, serial, index, at_ms)
            except BaseException:
                self.remove_all([f"{base}{n}" for n in range(index)], serial)
                raise
        return 0

    cdef int put(self, Id* id, uint32_t width, uint64_t serial, uint32_t index, uint64_t at_ms) noexcept nogil:
        """Like ``take``, and for a counted id like ``take_all``. 0: done, or it is past the window; -1: no memory, and
        nothing has changed."""
        cdef uint64_t number = at_ms // self._width_ms
        cdef Bucket* bucket
        cdef int taken = 0
        self._advance(at_ms)
        if number < self._oldest():
            self._forgotten += width
            return 0
        bucket = self._bucket_at(at_ms)
        if bucket is NULL:
            return -1
        if id.is_counted and id.index == 0 and index == 0:
            taken = add_counted(&bucket.runs, id.origin, id.number, width, serial)
        if taken == 0 and width == 1:
            self._hash(id)
            if _insert(bucket, _slot_of(id.hash, index, serial)):
                bucket.strays += id.is_counted
                taken = 1
        elif taken == 0:
            taken = self._put_strays(bucket, id, width, serial)
        if taken != 1:
            return -1
        bucket.used += width
        self._count += width
        return 0

    cdef int _put_strays(self, Bucket* bucket, Id* id, uint32_t width, uint64_t serial) noexcept nogil:
        """Put each id of a counted publish into the tables. 1, or -1: no memory, and nothing has changed."""
        cdef uint8_t text[LONGEST_COUNTED]
        cdef Id other
        cdef uint32_t index
        cdef Slot* slot
        for index in range(width):
            other = _at_index(id, index, text)
            self._hash(&other)
            if not _insert(bucket, _slot_of(other.hash, index, serial)):
                while index:
                    index -= 1
                    other = _at_index(id, index, text)
                    self._hash(&other)
                    slot = _search(_table(bucket, other.hash.low), other.hash)
                    _take_out(_table(bucket, other.hash.low), slot)
                return -1
        bucket.strays += width
        return 1

    cdef Bucket* _bucket_at(self, uint64_t at_ms) noexcept nogil:
        """The bucket of this time, which is not past; NULL: no memory."""
        cdef uint64_t number = at_ms // self._width_ms
        cdef Bucket* bucket
        if self._buckets is NULL:
            self._buckets = <Bucket*>calloc(self._bucket_count, sizeof(Bucket))
            if self._buckets is NULL:
                return NULL
        # Live numbers span less than the number of buckets, so a bucket in this slot has the same number.
        bucket = &self._buckets[number % self._bucket_count]
        bucket.number = number
        return bucket

    cdef void _drop(self, Found* found, Id* id) noexcept nogil:
        """Remove what was found: all of a counted publish."""
        cdef Bucket* bucket = found.bucket
        if found.slot is NULL:
            remove_counted(&bucket.runs, id.origin, id.number)
        else:
            _take_out(_table(bucket, id.hash.low), found.slot)
            bucket.strays -= id.is_counted
        bucket.used -= found.width
        self._count -= found.width
        if bucket.used == 0:
            _empty(bucket)
        if self._count == 0:
            self._free_all()

    cdef void _free_all(self) noexcept nogil:
        cdef uint32_t i
        if self._buckets is not NULL:
            for i in range(self._bucket_count):
                _empty(&self._buckets[i])
            free(self._buckets)
            self._buckets = NULL


cdef inline Id _at_index(const Id* id, uint32_t index, uint8_t* text) noexcept nogil:
    """The counted id with ``index`` instead of this one's index 0; ``text`` has space for it."""
    cdef Id other = id[0]
    cdef size_t size = id.size - 1
    memcpy(text, id.data, size)
    if index >= 100:
        text[size] = <uint8_t>(c'0' + index // 100)
        size += 1
    if index >= 10:
        text[size] = <uint8_t>(c'0' + index // 10 % 10)
        size += 1
    text[size] = <uint8_t>(c'0' + index % 10)
    other.data = text
    other.size = size + 1
    other.index = index
    other.is_hashed = False
    return other
