# cython: language_level=3
"""The newest entries of one channel, in memory, read by cursor.

    slot(n)  = n & mask             n numbers all entries that the ring ever took: 1, 2, 3, ...
    held     = oldest .. newest     empty while newest == oldest - 1
    serials  grow with n, but have gaps (they carry the time): a cursor is found by bisection
    columns  more data for each entry, in the same slots: its frames, in the streams (ext/log/stream.pyx)

Nothing here waits, locks or copies a payload per reader. When an entry is evicted, every column drops its data for it.

Rings and streams of all channels share a budget (ext/log/budget.pyx): entries count for it in runs, frames in segments,
and the oldest are evicted. Their readers have fallen behind then, as with a full ring."""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from ext.log.budget cimport Piece, Share, dequeue, enqueue, unbounded
from ext.log.entry cimport EPHEMERAL_FLAG
from ext.text.serial cimport serial_of

EPHEMERAL = EPHEMERAL_FLAG

cdef enum:
    FIRST_SLOTS = 2                 # most channels are quiet: a ring starts small and doubles
    ENTRY_BYTES = 64                # of an entry besides its record: its object's head and rounding
    SLOT_BYTES = 32                 # a Slot, and the pointer to the entry
    RUN_BYTES = 64 * 1024           # of entries that are evicted together,
    RUN_MS = 4_000                  # ... and came within this time


class Evicted(LookupError):
    """Entries after the cursor are no longer held: ``evicted`` is the newest evicted serial."""

    def __init__(self, cursor, evicted):
        super().__init__(f"entries between {cursor} and {evicted} are no longer in the ring")
        self.cursor = cursor
        self.evicted = evicted


cdef uint64_t _last_within(const Slot* slots, uint64_t mask, uint64_t first, uint64_t newest,
                           uint64_t budget) noexcept nogil:
    """The last entry of first..newest up to which the total of bytes stays within budget."""
    cdef uint64_t n = first, total = 0
    while n <= newest:
        total += slots[n & mask].size
        if total > budget and n > first:           # one entry always passes, however large
            break
        n += 1
    return n - 1


cdef class Column(Holder):
    """Data for each entry, in the same slots. Only subclasses keep any."""

    cdef int make_slots(self, uint64_t capacity) except -1:
        return 0

    cdef void use_made(self, uint64_t oldest, uint64_t newest, uint64_t mask) noexcept:
        pass

    cdef void drop_made(self) noexcept:
        pass

    cdef void trim(self) noexcept nogil:
        pass


@cython.final
@cython.no_gc_clear                     # on deallocation its share must learn what it held
cdef class Ring(Holder):
    """The newest entries, bounded by their number, their bytes, and by ``trim`` in age."""

    def __cinit__(self, uint64_t max_entries, uint64_t max_bytes, uint64_t evicted=0, str series=None, Share share=None,
                  uint64_t began=0, earlier=None):
        """With a ``series``, an entry that is bytes is a record of that series, and is read as ``(serial, series,
        record)``: an object for each would be a quarter of the memory of entries, and few are ever read. The series of
        entries up to the serial ``began`` comes from ``earlier.series_of``.

        Args:
            share: of the budget, for the ring and its streams.
        """
        self.share = share if share is not None else unbounded()
        self.budget = self.share.budget
        self.oldest = 1
        if max_entries == 0 or max_entries & (max_entries - 1):
            raise ValueError(f"max_entries must be a power of two, got {max_entries}")
        if max_entries > 1 << 30:
            raise ValueError(f"max_entries must be at most {1 << 30}, got {max_entries}")
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self.evicted = evicted
        self.series = series
        self._began = began
        self._earlier = earlier
        self.streams = []

    def __dealloc__(self):
        if self.share is None:          # its initialization did not begin
            return
        while self._runs is not NULL:
            self._drop_run()
        self.share.release(self.held_bytes + (self.newest + 1 - self.oldest) * ENTRY_BYTES)
        if self._slots is not NULL:
            self.share.release((self._mask + 1) * SLOT_BYTES)
            free(self._slots)

    def __len__(self):
        return <Py_ssize_t>(self.newest + 1 - self.oldest)

    @property
    def head(self):
        """Serial of the newest entry, or ``evicted`` if none is held."""
        return self._slots[self.newest & self._mask].serial if self.newest >= self.oldest else self.evicted

    def append(self, uint64_t serial, object entry, uint32_t size, uint64_t origin=0, uint32_t flags=0):
        """Add ``entry``, which counts for ``size`` bytes. Every stream must get its frame before the next entry."""
        self.take(serial, entry, size, origin, flags)

    cdef int take(self, uint64_t serial, object entry, uint32_t size, uint64_t origin, uint32_t flags) except -1:
        cdef uint64_t last = self._slots[self.newest & self._mask].serial if self.newest >= self.oldest else self.evicted
        if serial <= last:
            raise ValueError(f"serial {serial} does not come after {last}")
        cdef Run* run
        if self._slots is NULL or (self.newest + 1 - self.oldest > self._mask and self._mask + 1 < self._max_entries):
            self._resize(FIRST_SLOTS if self._slots is NULL else (self._mask + 1) * 2)
        while self.oldest <= self.newest and (self.newest + 1 - self.oldest > self._mask
                                              or self.held_bytes + size > self._max_bytes):
            self._evict()
        run = self._last_run
        if run is NULL or run.bytes >= RUN_BYTES or serial - run.began >= serial_of(RUN_MS, 0):
            run = self._begin_run(serial)
        self.newest += 1
        cdef Slot* slot = &self._slots[self.newest & self._mask]
        slot.serial = serial
        slot.origin = origin
        slot.size = size
        slot.flags = flags
        self._entries[<Py_ssize_t>(self.newest & self._mask)] = entry
        self.held_bytes += size
        run.last = self.newest
        run.bytes += size + ENTRY_BYTES
        self.share.hold(size + ENTRY_BYTES)
        return 0

    def trim(self, uint64_t cursor):
        """Evict every entry up to and including ``cursor``."""
        while self.oldest <= self.newest and self._slots[self.oldest & self._mask].serial <= cursor:
            self._evict()
        self._shrink()

    cdef void let_go(self, Piece* piece) noexcept:
        """Evict entries of this run, as many as necessary."""
        cdef uint64_t last = (<Run*>piece).last
        while self.oldest <= last and self.budget.held > self.budget.most:
            self._evict()
        self._shrink()

    def read_after(self, uint64_t cursor, *, uint64_t budget, uint64_t skip_origin=0):
        """The entries after ``cursor`` for a replay: ``(serial of the last one looked at, entries)``.

        At most ``budget`` bytes, but at least one entry if there is any. Ephemeral entries and those of
        ``skip_origin`` are skipped (the cursor moves past them).
        Raises: Evicted, when something after the cursor is no longer held.
        """
        cdef uint64_t n, first, last
        cdef list found = []
        self.span_after(cursor, budget, &first, &last)
        if first > last:
            return cursor, []
        for n in range(first, last + 1):
            if self.is_replayed(n, skip_origin):
                found.append(self.entry_at(n))
        return self._slots[last & self._mask].serial, found

    cdef int span_after(self, uint64_t cursor, uint64_t budget, uint64_t* first, uint64_t* last) except -1:
        """Numbers of the entries that ``read_after`` looks at; none: ``first`` is beyond ``last``."""
        if cursor < self.evicted:
            raise Evicted(cursor, self.evicted)
        first[0] = self.first_after(cursor)             # newest + 1 at the head
        last[0] = self.newest
        if first[0] <= self.newest:
            last[0] = _last_within(self._slots, self._mask, first[0], self.newest, budget)
        return 0

    cdef bint is_replayed(self, uint64_t n, uint64_t skip_origin) noexcept nogil:
        """May it be replayed to this reader?"""
        cdef Slot* slot = &self._slots[n & self._mask]
        return not slot.flags & EPHEMERAL_FLAG and not (skip_origin and slot.origin == skip_origin)

    def read_before(self, uint64_t cursor, *, uint64_t limit):
        """Up to ``limit`` held entries before ``cursor``, newest first, without the ephemeral ones."""
        cdef list found = []
        cdef uint64_t n = self.first_after(cursor - 1 if cursor else 0) - 1
        while n >= self.oldest and <uint64_t>len(found) < limit:
            if not self._slots[n & self._mask].flags & EPHEMERAL_FLAG:
                found.append(self.entry_at(n))
            n -= 1
        return found

    cdef object entry_at(self, uint64_t n):
        """The entry in the form for its readers."""
        cdef object entry = self._entries[<Py_ssize_t>(n & self._mask)]
        if self.series is not None and type(entry) is bytes:
            return self._slots[n & self._mask].serial, self.series_at(n), entry
        return entry

    cdef str series_at(self, uint64_t n):
        """The series of an entry that is only a record."""
        cdef uint64_t serial = self._slots[n & self._mask].serial
        if serial > self._began or self._earlier is None:
            return self.series
        return <str?>self._earlier.series_of(serial)

    cdef uint64_t first_after(self, uint64_t cursor) noexcept nogil:
        """Number of the first held entry whose serial is greater; newest + 1 if there is none."""
        cdef uint64_t low = self.oldest, high = self.newest + 1, middle
        if high > low and self._slots[self.newest & self._mask].serial <= cursor:
            return high                                          # the usual case: nothing new
        while low < high:
            middle = low + (high - low) // 2
            if self._slots[middle & self._mask].serial <= cursor:
                low = middle + 1
            else:
                high = middle
        return low

    cdef int add(self, Column column) except -1:
        """Add a column, which keeps data from the next entry on."""
        if self._slots is NULL:
            self._resize(FIRST_SLOTS)
        column.make_slots(self._mask + 1)
        column.use_made(1, 0, 0)            # the column has no data for the entries held
        self.streams.append(column)
        return 0

    cdef int _resize(self, uint64_t capacity) except -1:
        """Resize to this many slots, or to the maximum; the held entries fit."""
        cdef uint64_t n
        if capacity > self._max_entries:
            capacity = self._max_entries
        cdef Slot* slots = <Slot*>calloc(<size_t>capacity, sizeof(Slot))
        if slots is NULL:
            raise MemoryError(f"no memory for {capacity} slots")
        cdef list entries = [None] * <Py_ssize_t>capacity
        cdef Column column
        try:
            for column in self.streams:
                column.make_slots(capacity)
        except MemoryError:
            free(slots)
            for column in self.streams:
                column.drop_made()
            raise
        for column in self.streams:
            column.use_made(self.oldest, self.newest, self._mask)
        for n in range(self.oldest, self.newest + 1):
            slots[n & (capacity - 1)] = self._slots[n & self._mask]
            entries[<Py_ssize_t>(n & (capacity - 1))] = self._entries[<Py_ssize_t>(n & self._mask)]
        if self._slots is not NULL:
            self.share.release((self._mask + 1) * SLOT_BYTES)
            free(self._slots)
        self.share.hold(capacity * SLOT_BYTES)
        self._slots = slots
        self._entries = entries
        self._mask = capacity - 1
        return 0

    cdef void _shrink(self) noexcept:
        """Shrink after a burst. (Not where a full ring evicts: it would grow again at once.)"""
        cdef uint64_t held = self.newest + 1 - self.oldest, capacity = self._mask + 1
        while capacity > FIRST_SLOTS and held <= capacity // 8:
            capacity //= 2
        if capacity > self._mask // 2:
            return
        try:
            self._resize(capacity)
        except MemoryError:
            pass                        # the larger array will do

    cdef Run* _begin_run(self, uint64_t serial) except NULL:
        cdef Run* run = <Run*>malloc(sizeof(Run))
        if run is NULL:
            raise MemoryError("no memory for a run of entries")
        run.piece.holder = <void*>self
        run.next = NULL
        run.last = self.newest + 1      # the next entry
        run.began = serial
        run.bytes = 0
        if self._last_run is NULL:
            self._runs = run
        else:
            self._last_run.next = run
        self._last_run = run
        enqueue(&self.share.entries_queue, &run.piece)
        self.share.hold(sizeof(Run))
        return run

    cdef void _drop_run(self) noexcept:
        cdef Run* run = self._runs
        self._runs = run.next
        if self._runs is NULL:
            self._last_run = NULL
        dequeue(&self.share.entries_queue, &run.piece)
        self.share.release(sizeof(Run))
        free(run)

    cdef void _evict(self) noexcept:
        cdef Slot* slot = &self._slots[self.oldest & self._mask]
        self.evicted = slot.serial
        self.held_bytes -= slot.size
        self.share.release(slot.size + ENTRY_BYTES)
        self._entries[<Py_ssize_t>(self.oldest & self._mask)] = None
        self.oldest += 1
        if self._runs.last < self.oldest:
            self._drop_run()
        cdef Column column
        for column in self.streams:
            column.trim()

    def _check(self):
        """Assert the invariants; for tests."""
        cdef uint64_t n, total = 0, last = self.evicted
        for n in range(self.oldest, self.newest + 1):
            assert self._slots[n & self._mask].serial > last
            last = self._slots[n & self._mask].serial
            total += self._slots[n & self._mask].size
            assert self._entries[<Py_ssize_t>(n & self._mask)] is not None
        assert total == self.held_bytes
        assert total <= self._max_bytes or self.newest == self.oldest
        assert self.newest + 1 - self.oldest <= self._max_entries
        for stream in self.streams:
            stream._check()
        cdef Run* run = self._runs
        last = self.oldest - 1
        while run is not NULL:
            assert run.last > last
            last = run.last
            assert (run.next is NULL) == (run is self._last_run)
            run = run.next
        assert last == self.newest

    def _counted(self):
        """Bytes of the budget that it and its streams must count for; for tests."""
        cdef uint64_t size = self.held_bytes + (self.newest + 1 - self.oldest) * ENTRY_BYTES
        cdef Run* run = self._runs
        while run is not NULL:
            size += sizeof(Run)
            run = run.next
        if self._slots is not NULL:
            size += (self._mask + 1) * SLOT_BYTES
        for stream in self.streams:
            size += stream._counted()
        return size
