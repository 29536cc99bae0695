# cython: language_level=3
"""The message ids that one channel has taken within its window: for each, the serial and index of its first use.

    bucket n     serials of the milliseconds [n * width, (n + 1) * width); width = window / (buckets - 1), rounded up
    expire       forgets whole buckets: n goes when (n + 1) * width + window <= clock; at most `buckets` are ever live

        clock - window - width        clock - window                           clock
              |   n   (may be partly past)  |     n + 1     |     n + 2     |    n + 3  |

    bucket       runs, for ids that connections count by themselves (ext/runs.pxd); for all others
                 one table; when that is big, 64 of them by the lowest bits of low, each growing on its own
    table        open addressing, Robin Hood order
        slot   [ hash, low 64 bits ][ hash, high 64 bits ][ mark ]          24 bytes
        mark   0: empty; else 1 + (serial - the least serial of the bucket << 10 | index)
        home   low's upper 32 bits * capacity >> 32: capacity need not be a power of two, and tables grow in hash order

A counted id that has no place in the runs of its bucket is a stray in its tables: while there are none, tables need not be
asked for counted ids. Any other id is kept as its SipHash-2-4 with 128 bits under a secret key: compared in full, so that a collision is as likely as
guessing the key, and nobody who lacks the key can look for one. No id, and no Python object per id, is kept.

The clock of a window is the latest time that it has been told: by `expire`, or by the serial of an `add`."""
cimport cython
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ext.runs cimport Run, WHO_BYTES, add_counted, bytes_of_runs, free_runs, is_counted, mark_in, remove_counted, run_of
from ext.siphash cimport Hash, siphash
from ext.words cimport le64toh

cdef extern from "<endian.h>" nogil:
    uint64_t htole64(uint64_t)

cdef extern from * nogil:
    void __builtin_prefetch(const void* address)

cdef enum:
    COUNTER_BITS = 16               # of a serial; above them are its milliseconds
    INDEX_BITS = 10
    INDEX_MASK = (1 << 10) - 1
    LARGEST_INDEX = 999             # an entry has at most 1,000 messages
    LARGEST_BUCKETS = 64            # every find looks into each live one
    FIRST_CAPACITY = 2              # a quiet channel pays 48 bytes for its slots
    DOUBLING_CAPACITY = 64          # below, tables double; from here they grow by half: 27 to 41 bytes per id
    # One table of 1,000,000 ids held up everybody for 40 ms when it grew; its 64th part takes below 1 ms.
    SPLIT_CAPACITY = 8192
    PARTS = 64
    LARGEST_CAPACITY = 1 << 30      # keeps capacity * 3 / 2 and hash * capacity within their types

cdef uint64_t LARGEST_MS = (<uint64_t>1 << 48) - 1
# A mark holds a serial relative to its bucket: width < 2**36 ms keeps (width << 26) + 1 well within 64 bits.
cdef uint64_t LARGEST_WINDOW_MS = (<uint64_t>1 << 36) - 1

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


# ---- one table. At least one slot in eight is empty, which ends every search.

cdef inline uint32_t _home(uint64_t low, uint32_t capacity) noexcept nogil:
    return <uint32_t>((low >> 32) * capacity >> 32)


cdef inline uint32_t _distance(const Slot* slots, uint32_t capacity, uint32_t at) noexcept nogil:
    """How far the id in slot ``at`` lies behind its home, around the end of the table."""
    cdef uint32_t home = _home(slots[at].hash.low, capacity)
    return at - home if at >= home else at + (capacity - home)


cdef inline uint32_t _next(uint32_t at, uint32_t capacity) noexcept nogil:
    return at + 1 if at + 1 < capacity else 0


cdef Slot* _search(const Table* table, Hash hash) noexcept nogil:
    """The slot of an id, or NULL."""
    cdef Slot* slots = table.slots
    cdef uint32_t capacity = table.capacity
    if capacity == 0:
        return NULL
    cdef uint32_t at = _home(hash.low, capacity), distance = 0
    while slots[at].mark != 0:
        if slots[at].hash.low == hash.low and slots[at].hash.high == hash.high:
            return &slots[at]
        if _distance(slots, capacity, at) < distance:           # ours would have taken this slot from it
            return NULL
        at = _next(at, capacity)
        distance += 1
    return NULL


cdef void _place(Slot* slots, uint32_t capacity, Slot item) noexcept nogil:
    """Put in an id that is not there; whoever is nearer to its home moves on. There is an empty slot."""
    cdef uint32_t at = _home(item.hash.low, capacity), distance = 0, other
    cdef Slot displaced
    while slots[at].mark != 0:
        other = _distance(slots, capacity, at)
        if other < distance:
            displaced = slots[at]
            slots[at] = item
            item = displaced
            distance = other
        at = _next(at, capacity)
        distance += 1
    slots[at] = item


cdef void _take_out(Table* table, Slot* slot) noexcept nogil:
    """Empty a slot and move those behind it one nearer to their homes: as if the id had never been there."""
    cdef Slot* slots = table.slots
    cdef uint32_t capacity = table.capacity
    cdef uint32_t hole = <uint32_t>(slot - slots), at = _next(hole, capacity)
    while slots[at].mark != 0 and _distance(slots, capacity, at) > 0:
        slots[hole] = slots[at]
        hole = at
        at = _next(at, capacity)
    slots[hole].mark = 0
    table.used -= 1


cdef bint _resize(Table* table, uint32_t capacity) noexcept nogil:
    """Move to a larger array of slots. False: no memory, and nothing has changed."""
    cdef Slot* slots = <Slot*>calloc(capacity, sizeof(Slot))
    cdef uint32_t at
    if slots is NULL:
        return False
    for at in range(table.capacity):            # both are in hash order: this reads and writes straight on
        if table.slots[at].mark != 0:
            _place(slots, capacity, table.slots[at])
    free(table.slots)
    table.slots = slots
    table.capacity = capacity
    return True


cdef bint _make_room(Table* table) noexcept nogil:
    """Room for one more id at a load of at most 7/8; False: no memory, and nothing has changed."""
    cdef uint32_t capacity = table.capacity
    if <uint64_t>(table.used + 1) * 8 <= <uint64_t>capacity * 7:
        return True
    if capacity == 0:
        capacity = FIRST_CAPACITY
    elif capacity < DOUBLING_CAPACITY:
        capacity *= 2
    else:
        capacity += capacity >> 1
    return capacity <= LARGEST_CAPACITY and _resize(table, capacity)


# ---- one bucket

cdef inline Table* _table(Bucket* bucket, Hash hash) noexcept nogil:
    """The only table that an id may be in. (Its home there is told by other bits of the hash.)"""
    return &bucket.whole if bucket.parts is NULL else &bucket.parts[hash.low & (PARTS - 1)]


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
    """From one table to its parts; False: no memory, and nothing has changed."""
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
        if whole.slots[at].mark != 0:
            part = &parts[whole.slots[at].hash.low & (PARTS - 1)]
            if not _make_room(part):
                _free_parts(parts)
                return False
            _place(part.slots, part.capacity, whole.slots[at])
            part.used += 1
    free(whole.slots)
    memset(whole, 0, sizeof(Table))
    bucket.parts = parts
    return True


cdef bint _insert(Bucket* bucket, Slot item) noexcept nogil:
    """Take an id that is not there; False: no memory, and it is not taken."""
    cdef Table* table
    if bucket.parts is NULL and bucket.whole.capacity >= SPLIT_CAPACITY and not _split(bucket):
        return False
    table = _table(bucket, item.hash)
    if not _make_room(table):
        return False
    _place(table.slots, table.capacity, item)
    table.used += 1
    return True


@cython.final
cdef class DedupWindow:
    """The ids of one channel that count as used.

    An id whose serial carries the time t is findable while the clock is at most t + window_ms. It is gone when the
    clock has reached t + window_ms + width, where width = window_ms / (buckets - 1), rounded up to whole milliseconds;
    in between, with the other ids of its bucket. A clock that jumps far ahead forgets everything at once; one that
    steps back changes nothing.

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
        """How many ids are held; those whose write is not finished count."""
        return <Py_ssize_t>self._count

    @property
    def memory(self):
        """Bytes allocated, with the object itself."""
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
        """(serial, index) of the first use of an id, also of one whose write is not finished; None: it is not held.

        Raises: UnicodeEncodeError (a ValueError), the id has a lone surrogate and so no bytes. So do all that take one.
        """
        cdef Id id = self._id(message_id)
        return self._answer(&id)

    def add(self, str message_id not None, uint64_t serial, uint32_t index):
        """Remember the first use of an id, and let the clock know the serial's time.

        An id whose serial is already past the window, in a bucket that the clock has let go, is not kept: nobody may
        find it. (Serials grow, so this is the beginning of a restore that began too early.)

        Raises: ValueError, the id is held already, or index is over 999; MemoryError. Nothing is remembered then.
        """
        cdef Id id = self._id(message_id)
        known = self._answer(&id)
        if known is not None:
            raise ValueError(f"{message_id!r} is held already, with (serial, index) = {known}")
        self.take(&id, serial, index)

    def add_or_find(self, str message_id not None, uint64_t serial, uint32_t index):
        """As ``find``; and when that is None, as ``add``."""
        cdef Id id = self._id(message_id)
        known = self._answer(&id)
        if known is None:
            self.take(&id, serial, index)
        return known

    def remove(self, str message_id not None, uint64_t serial):
        """Take back an id whose write failed. False: it is not held with this very serial, and nothing has changed."""
        cdef Bucket* bucket = NULL
        cdef Slot* slot = NULL
        cdef Id id = self._id(message_id)
        cdef uint64_t* mark = self._mark(&id, &bucket, &slot)
        if mark is NULL or self._serial(bucket, mark[0]) != serial:
            return False
        if slot is NULL:
            remove_counted(&bucket.runs, id.who, id.number)
        else:
            _take_out(_table(bucket, id.hash), slot)
            bucket.strays -= id.is_counted
        bucket.used -= 1
        self._count -= 1
        if bucket.used == 0:
            _empty(bucket)
        if self._count == 0:
            self._free_all()
        return True

    def expire(self, uint64_t now_ms):
        """Forget the buckets that are past the window at ``now_ms``, without looking into them.

        Returns: how many ids were forgotten since the call before, by this call or because an ``add`` brought a later
        time; those that an ``add`` did not keep are among them. Raises: ValueError, now_ms has more than 48 bits.
        """
        if now_ms > LARGEST_MS:
            raise ValueError(f"now_ms must be 0 to {LARGEST_MS}, got {now_ms}")
        self._advance(now_ms)
        forgotten = self._forgotten
        self._forgotten = 0
        return forgotten

    cdef Hash hash_of(self, const void* data, size_t size) noexcept nogil:
        """Under the key of all windows."""
        return siphash(self._key0, self._key1, <const char*>data, size)

    cdef Id id_of(self, const uint8_t* data, size_t size) noexcept nogil:
        """The id of these bytes (UTF-8). With ``holds`` and ``take``: for those who have no str of it."""
        cdef Id id
        id.data = data
        id.size = size
        id.is_hashed = False
        id.is_counted = is_counted(data, size, &id.number)
        if id.is_counted:
            id.who = self.hash_of(data, WHO_BYTES)
        return id

    cdef void prefetch(self, Id* id) noexcept nogil:
        """It will be looked for soon: have the memory brought near meanwhile."""
        cdef uint32_t i
        cdef Table* table
        if self._buckets is NULL or id.is_counted:
            return
        self._hash(id)
        for i in range(self._bucket_count):
            if self._buckets[i].used != 0:
                table = _table(&self._buckets[i], id.hash)
                if table.capacity:
                    __builtin_prefetch(&table.slots[_home(id.hash.low, table.capacity)])

    cdef bint holds(self, Id* id) noexcept nogil:
        cdef Bucket* bucket = NULL
        cdef Slot* slot = NULL
        return self._mark(id, &bucket, &slot) is not NULL

    cdef Id _id(self, str message_id) except *:
        cdef Py_ssize_t size = 0
        cdef const char* data = PyUnicode_AsUTF8AndSize(message_id, &size)      # lives as long as the str
        return self.id_of(<const uint8_t*>data, <size_t>size)

    cdef void _hash(self, Id* id) noexcept nogil:
        if not id.is_hashed:
            id.hash = self.hash_of(id.data, id.size)
            id.is_hashed = True

    cdef uint64_t* _mark(self, Id* id, Bucket** place, Slot** slot) noexcept nogil:
        """Where the mark of an id is, and its bucket; and its slot, if it is in a table. NULL: it is not held."""
        cdef uint32_t i
        cdef Bucket* bucket
        cdef Run* run
        cdef uint64_t* mark
        if self._buckets is NULL:
            return NULL
        for i in range(self._bucket_count):
            bucket = &self._buckets[i]
            if bucket.used == 0:
                continue
            place[0] = bucket
            if id.is_counted:
                run = run_of(bucket.runs, id.who)
                if run is not NULL:
                    mark = mark_in(run, id.number)
                    if mark is not NULL and mark[0] != 0:
                        return mark
                if bucket.strays == 0:
                    continue
            self._hash(id)
            slot[0] = _search(_table(bucket, id.hash), id.hash)
            if slot[0] is not NULL:
                return &slot[0].mark
        return NULL

    cdef uint64_t _serial(self, const Bucket* bucket, uint64_t mark) noexcept nogil:
        return (bucket.number * self._width_ms << COUNTER_BITS) + ((mark - 1) >> INDEX_BITS)

    cdef object _answer(self, Id* id):
        cdef Bucket* bucket = NULL
        cdef Slot* slot = NULL
        cdef uint64_t* mark = self._mark(id, &bucket, &slot)
        if mark is NULL:
            return None
        return self._serial(bucket, mark[0]), (mark[0] - 1) & INDEX_MASK

    cdef uint64_t _oldest(self) noexcept nogil:
        """Number of the oldest bucket that is live: (n + 1) * width + window > clock."""
        return (self._clock_ms - self._window_ms) // self._width_ms if self._clock_ms >= self._window_ms else 0

    cdef void _advance(self, uint64_t now_ms) noexcept nogil:
        """Let the clock know a time; drop the buckets that are past with it."""
        cdef uint32_t i
        cdef uint64_t oldest
        if now_ms <= self._clock_ms:
            return
        self._clock_ms = now_ms
        if self._buckets is NULL:
            return
        oldest = self._oldest()
        for i in range(self._bucket_count):
            if self._buckets[i].used != 0 and self._buckets[i].number < oldest:
                self._forgotten += self._buckets[i].used
                self._count -= self._buckets[i].used
                _empty(&self._buckets[i])
        if self._count == 0:
            self._free_all()                    # a channel that fell silent costs no more than a new one

    cdef int take(self, Id* id, uint64_t serial, uint32_t index) except -1:
        """Remember an id that is not held."""
        if index > LARGEST_INDEX:
            raise ValueError(f"index must be 0 to {LARGEST_INDEX}, got {index}")
        cdef uint64_t ms = serial >> COUNTER_BITS, number = ms // self._width_ms
        cdef Slot item
        cdef int taken = 0
        self._advance(ms)
        if number < self._oldest():
            self._forgotten += 1
            return 0
        if self._buckets is NULL:
            self._buckets = <Bucket*>calloc(self._bucket_count, sizeof(Bucket))
            if self._buckets is NULL:
                raise MemoryError(f"no memory for {self._bucket_count} buckets")
        cdef Bucket* bucket = &self._buckets[number % self._bucket_count]
        # Live numbers span less than the number of buckets, so whoever sits in this place has the same number.
        assert bucket.used == 0 or bucket.number == number
        bucket.number = number
        item.mark = 1 + ((serial - (number * self._width_ms << COUNTER_BITS)) << INDEX_BITS | index)
        if id.is_counted:
            taken = add_counted(&bucket.runs, id.who, id.number, item.mark)
        if taken == 0:
            self._hash(id)
            item.hash = id.hash
            if _insert(bucket, item):
                bucket.strays += id.is_counted
                taken = 1
        if taken != 1:
            raise MemoryError(f"no memory for more than {bucket.used} ids in one bucket")
        bucket.used += 1
        self._count += 1
        return 0

    cdef void _free_all(self) noexcept nogil:
        cdef uint32_t i
        if self._buckets is not NULL:
            for i in range(self._bucket_count):
                _empty(&self._buckets[i])
            free(self._buckets)
            self._buckets = NULL
