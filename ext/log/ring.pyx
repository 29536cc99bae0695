# cython: language_level=3
"""The newest entries of one channel, in memory, read by cursor; and their frames, in runs that a send can take whole.

    slot(n)  = n & mask             n counts the entries that the ring ever took: 1, 2, 3, ...
    held     = oldest .. newest     empty while newest == oldest - 1
    serials  grow with n, but have holes (they carry the time): a cursor is found by bisection

    Stream (one per wire format in use): the frames of the same entries, one behind the other

        place     tail                                   head        bytes since the stream began
                   |  n   |  n+1  |   n+2   | ... | newest |
                   [ segment      ][ segment       ][ seg   ]        a frame never straddles two segments

A reader at the head holds one number, its place; whoever is slow holds a smaller one. Nothing here waits, locks or
copies a payload per reader. When an entry is evicted its frames go with it, in every stream. From FRAMES_BYTES in all
streams on, frames that everybody has passed go before: whoever comes back for them has them made anew, of the entry.

What rings and streams of all channels hold together has a budget (ext/log/budget.pyx): entries count for it in runs, frames in
segments, and the oldest have to give way. Whoever reads them is behind then, as behind a ring that is full."""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from ext.log.budget cimport Piece, Share, dequeue, enqueue, unbounded
from ext.log.entry cimport EPHEMERAL_FLAG
from ext.text.serial cimport serial_of

EPHEMERAL = EPHEMERAL_FLAG

cdef enum:
    FIRST_SLOTS = 2                 # most channels are quiet: a ring starts small and doubles
    FIRST_SEGMENT = 2048
    LARGEST_SEGMENT = 256 * 1024    # one send takes some 200 KiB at most; larger segments would free memory too late
    FRAMES_BYTES = 32 * 1024 * 1024 # of frames kept for those who may come back: new memory costs more than making them anew
    LARGEST_FRAME = 1 << 30         # far above any limit on messages; keeps the sum of two in 32 bits
    ENTRY_BYTES = 64                # what an entry takes beside its record: its object's head, and what rounding adds
    SLOT_BYTES = 32                 # a Slot, and the pointer to the entry
    RUN_BYTES = 64 * 1024           # of entries that have to give way together,
    RUN_MS = 4_000                  # ... and came within so long


class Evicted(LookupError):
    """Entries after the cursor are no longer held: ``evicted`` is the newest serial that was let go."""

    def __init__(self, cursor, evicted):
        super().__init__(f"entries between {cursor} and {evicted} are no longer in the ring")
        self.cursor = cursor
        self.evicted = evicted


cdef uint64_t _last_within(const Slot* slots, uint64_t mask, uint64_t first, uint64_t newest,
                           uint64_t budget) noexcept nogil:
    """The last entry of first..newest whose running total of bytes stays within budget."""
    cdef uint64_t n = first, total = 0
    while n <= newest:
        total += slots[n & mask].size
        if total > budget and n > first:           # one entry always passes, however big
            break
        n += 1
    return n - 1


@cython.final
@cython.no_gc_clear                     # what it holds is to be told to its share when it goes
cdef class Ring(Holder):
    """The newest entries, bounded by their number, their bytes, and by ``trim`` in age."""

    def __cinit__(self, uint64_t max_entries, uint64_t max_bytes, uint64_t evicted=0, str series=None, Share share=None,
                  uint64_t began=0, earlier=None):
        """With a ``series``, an entry that is bytes is a record of that series, and is read as ``(serial, series, record)``:
        an object for each would be a quarter of what entries hold in memory, and few are ever read. Entries up to the
        serial ``began`` are of whatever series ``earlier.series_of`` tells of theirs.

        Args:
            share: of the budget that it counts for, and its streams.
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
        if self.share is None:          # it was not even begun
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
        """Serial of the newest entry; ``evicted`` when none is held."""
        return self._slots[self.newest & self._mask].serial if self.newest >= self.oldest else self.evicted

    def append(self, uint64_t serial, object entry, uint32_t size, uint64_t origin=0, uint32_t flags=0):
        """Take ``entry``, which counts for ``size`` bytes. Every stream must get its frame before the next one."""
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
        """Let go of every entry up to and including ``cursor``."""
        while self.oldest <= self.newest and self._slots[self.oldest & self._mask].serial <= cursor:
            self._evict()
        self._shrink()

    cdef void let_go(self, Piece* piece) noexcept:
        """Of the entries of this run, as many as it takes."""
        cdef uint64_t last = (<Run*>piece).last
        while self.oldest <= last and self.budget.held > self.budget.most:
            self._evict()
        self._shrink()

    def read_after(self, uint64_t cursor, *, uint64_t budget, uint64_t skip_origin=0):
        """The entries after ``cursor`` for a replay: ``(serial of the last one looked at, entries)``.

        At most ``budget`` bytes, but at least one entry if there is any. Ephemeral entries and those of
        ``skip_origin`` are passed over (the cursor moves past them).
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
        """May somebody who was not there have it?"""
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
        """As those who read it want it."""
        cdef object entry = self._entries[<Py_ssize_t>(n & self._mask)]
        if self.series is not None and type(entry) is bytes:
            return self._slots[n & self._mask].serial, self.series_at(n), entry
        return entry

    cdef str series_at(self, uint64_t n):
        """Of an entry that is a record alone."""
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

    cdef int _resize(self, uint64_t capacity) except -1:
        """Have so many slots, or as many as it may have; those that are held fit into them."""
        cdef uint64_t n
        if capacity > self._max_entries:
            capacity = self._max_entries
        cdef Slot* slots = <Slot*>calloc(<size_t>capacity, sizeof(Slot))
        if slots is NULL:
            raise MemoryError(f"no memory for {capacity} slots")
        cdef list entries = [None] * <Py_ssize_t>capacity
        cdef Stream stream
        try:
            for stream in self.streams:
                stream._grown = _new_offsets(capacity)
        except MemoryError:
            free(slots)
            for stream in self.streams:
                free(stream._grown)
                stream._grown = NULL
            raise
        for stream in self.streams:
            _swap_offsets(stream, self.oldest, self.newest, self._mask, capacity)
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
        """Give back what a burst has left of slots. (Not where a full ring evicts: that takes them again at once.)"""
        cdef uint64_t held = self.newest + 1 - self.oldest, capacity = self._mask + 1
        while capacity > FIRST_SLOTS and held <= capacity // 8:
            capacity //= 2
        if capacity > self._mask // 2:
            return
        try:
            self._resize(capacity)
        except MemoryError:
            pass                        # the larger ones do as well

    cdef Run* _begin_run(self, uint64_t serial) except NULL:
        cdef Run* run = <Run*>malloc(sizeof(Run))
        if run is NULL:
            raise MemoryError("no memory for a run of entries")
        run.piece.holder = <void*>self
        run.next = NULL
        run.last = self.newest + 1      # which is about to come
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
        cdef Stream stream
        for stream in self.streams:
            stream.trim()

    def _check(self):
        """Assert what must always hold; for tests."""
        cdef uint64_t n, total = 0, last = self.evicted
        for n in range(self.oldest, self.newest + 1):
            assert self._slots[n & self._mask].serial > last
            last = self._slots[n & self._mask].serial
            total += self._slots[n & self._mask].size
            assert self._entries[<Py_ssize_t>(n & self._mask)] is not None
        assert total == self.held_bytes
        assert total <= self._max_bytes or self.newest == self.oldest
        assert self.newest + 1 - self.oldest <= self._max_entries
        cdef Stream stream
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
        cdef Segment* segment
        cdef Stream stream
        while run is not NULL:
            size += sizeof(Run)
            run = run.next
        if self._slots is not NULL:
            size += (self._mask + 1) * SLOT_BYTES
        for stream in self.streams:
            size += stream._room * sizeof(uint64_t)
            segment = stream._segments
            while segment is not NULL:
                size += sizeof(Segment) + segment.size
                segment = segment.next
        return size


cdef uint64_t* _new_offsets(uint64_t capacity) except NULL:
    cdef uint64_t* offsets = <uint64_t*>calloc(<size_t>capacity, sizeof(uint64_t))
    if offsets is NULL:
        raise MemoryError(f"no memory for {capacity} offsets")
    return offsets


cdef void _swap_offsets(Stream stream, uint64_t oldest, uint64_t newest, uint64_t mask, uint64_t capacity) noexcept:
    """The offsets that have been made for it take over."""
    cdef uint64_t n
    for n in range(oldest, newest + 1):
        stream._grown[n & (capacity - 1)] = stream._offsets[n & mask]
    free(stream._offsets)
    stream._offsets = stream._grown
    stream._grown = NULL
    stream.share.release(stream._room * sizeof(uint64_t))
    stream.share.hold(capacity * sizeof(uint64_t))
    stream._room = capacity


cdef class Reader:
    """Reads a stream; the plane's are derived from it."""


@cython.final
@cython.no_gc_clear
cdef class Stream(Holder):
    """The frames of a ring's entries in one wire format, from the entry after the newest one onwards."""

    def __cinit__(self, Ring ring not None, object encoder):
        self.share = ring.share
        self.ring = ring
        self.encoder = encoder
        self.first = ring.newest + 1
        if ring._slots is NULL:
            ring._resize(FIRST_SLOTS)
        self._offsets = _new_offsets(ring._mask + 1)
        self._room = ring._mask + 1
        self.share.hold(self._room * sizeof(uint64_t))
        ring.streams.append(self)

    def __dealloc__(self):
        if self.share is None:
            return
        while self._segments is not NULL:
            self._drop_first()
        self.share.release(self._room * sizeof(uint64_t))
        free(self._offsets)
        free(self.readers)

    def close(self):
        """Take it out of its ring; nobody may read it any more."""
        if self.reader_count:
            raise ValueError("the stream still has readers")
        self.ring.streams.remove(self)
        while self._segments is not NULL:
            self._drop_first()

    @property
    def readers_now(self):
        """How many read it."""
        return self.reader_count

    def append(self, bytes frame not None):
        """Take the frame of the ring's newest entry."""
        self.take(<const uint8_t*><const char*>frame, <size_t>len(frame))

    cdef int take(self, const uint8_t* frame, size_t length) except -1:
        if not 0 < length <= LARGEST_FRAME:
            raise ValueError(f"a frame has 1 to {<int>LARGEST_FRAME} bytes, got {length}")
        cdef uint32_t size = <uint32_t>length
        cdef uint64_t room
        cdef Segment* segment = self._last
        self._offsets[self.ring.newest & self.ring._mask] = self.head
        if segment is NULL or segment.size - segment.used < size:
            if self.share.budget.frames > FRAMES_BYTES:
                self._drop_read()
            room = FIRST_SEGMENT if segment is NULL else <uint64_t>segment.size * 2
            if room > LARGEST_SEGMENT:
                room = LARGEST_SEGMENT
            if room < size:
                room = size
            segment = <Segment*>malloc(sizeof(Segment) + <size_t>room)
            if segment is NULL:
                raise MemoryError(f"no memory for a segment of {room} bytes")
            segment.piece.holder = <void*>self
            segment.next = NULL
            segment.start = self.head
            segment.used = 0
            segment.size = <uint32_t>room
            self.allocated += room
            self._count(sizeof(Segment) + room)
            enqueue(&self.share.frames_queue, &segment.piece)
            if self._last is NULL:
                self._segments = segment
            else:
                self._last.next = segment
            self._last = segment
        memcpy(&segment.data[segment.used], frame, size)
        segment.used += size
        self.head += size
        return 0

    def place_after(self, uint64_t cursor):
        """The place from which a reader with this cursor reads on, or None if the stream does not reach so far back."""
        cdef uint64_t n = self.ring.first_after(cursor)
        if cursor < self.ring.evicted:
            return None
        if n > self.ring.newest:
            return self.head
        return self._offsets[n & self.ring._mask] if n >= self.first else None

    def cursor_at(self, uint64_t place):
        """Serial of the last entry whose frame lies wholly before ``place``; None if that is no longer known."""
        if place < self.tail:
            return None
        cdef uint64_t n = self.entry_at(place) - 1
        if n < self.ring.oldest:
            return self.ring.evicted
        return self.ring._slots[n & self.ring._mask].serial

    def read(self, uint64_t place, *, uint64_t budget, uint64_t skip_origin=0, uint64_t quiet_until=0):
        """For a reader outside the plane: ``(next place, [frame, ...])``; None when it has fallen behind."""
        if place < self.tail:
            return None
        cdef list frames = []
        cdef uint64_t start, size, n, end
        cdef Segment* segment
        while budget and place < self.head:
            size = self.run(place, budget, skip_origin, quiet_until, &start)
            if size == 0:
                place = self.head
                break
            end = start + size
            n = self.entry_at(start)
            while start < end:
                size = self.start_of(n + 1) - start
                segment = self.segment_at(start)
                frames.append((<const char*>&segment.data[start - segment.start])[:size])
                budget -= size if size < budget else budget
                start += size
                n += 1
            place = end
        return place, frames

    cdef uint64_t start_of(self, uint64_t n) noexcept nogil:
        return self._offsets[n & self.ring._mask] if n <= self.ring.newest else self.head

    cdef Segment* segment_at(self, uint64_t place) noexcept nogil:
        """The segment that holds this byte; the place must be held (tail <= place < head)."""
        cdef Segment* segment = self._last
        if place >= segment.start:
            return segment
        segment = self._segments
        while place >= segment.start + segment.used:
            segment = segment.next
        return segment

    cdef uint64_t entry_at(self, uint64_t place) noexcept nogil:
        """Number of the entry whose frame holds this byte; newest + 1 at the head."""
        cdef uint64_t low = self.first if self.first > self.ring.oldest else self.ring.oldest
        cdef uint64_t high = self.ring.newest + 1, middle
        while low < high:                       # the last n with offset <= place
            middle = low + (high - low) // 2
            if self.start_of(middle + 1) <= place:
                low = middle + 1
            else:
                high = middle
        return low

    cdef uint64_t run(self, uint64_t place, uint64_t budget, uint64_t skip_origin, uint64_t quiet_until,
                      uint64_t* start) noexcept nogil:
        """The next bytes to send from ``place``: whole frames, in one piece. 0: nothing for this reader up to the head.

        ``place`` is a frame's beginning. Frames of ``skip_origin`` are left out, and so are ephemeral ones before
        ``quiet_until``. At least one frame is taken, then as many as stay within ``budget``.
        """
        cdef Segment* segment
        cdef uint64_t n, end, limit
        cdef Slot* slot
        start[0] = place
        if place >= self.head:
            return 0
        if skip_origin == 0 and place >= quiet_until:
            segment = self.segment_at(place)
            limit = segment.start + segment.used
            if limit - place <= budget:         # the usual case: all the rest of the segment
                return limit - place
        n = self.entry_at(place)
        while n <= self.ring.newest:            # pass over what is not for this reader
            slot = &self.ring._slots[n & self.ring._mask]
            if not _hidden(slot, self.start_of(n), skip_origin, quiet_until):
                break
            n += 1
        if n > self.ring.newest:
            return 0
        start[0] = self.start_of(n)
        segment = self.segment_at(start[0])
        limit = segment.start + segment.used
        end = self.start_of(n + 1)
        n += 1
        while n <= self.ring.newest and end < limit and self.start_of(n + 1) - start[0] <= budget:
            slot = &self.ring._slots[n & self.ring._mask]
            if _hidden(slot, end, skip_origin, quiet_until):
                break
            end = self.start_of(n + 1)
            n += 1
        return end - start[0]

    cdef void trim(self) noexcept nogil:
        """Give back the segments of which no frame is held any more."""
        cdef uint64_t n = self.ring.oldest if self.ring.oldest > self.first else self.first
        self.tail = self.start_of(n)
        while self._segments is not NULL and self._segments.start + self._segments.used <= self.tail:
            self._drop_first()

    cdef void _drop_first(self) noexcept nogil:
        cdef Segment* segment = self._segments
        self._segments = segment.next
        if self._segments is NULL:
            self._last = NULL
        self.allocated -= segment.size
        self._count(-<int64_t>(sizeof(Segment) + segment.size))
        dequeue(&self.share.frames_queue, &segment.piece)
        free(segment)

    cdef void _count(self, int64_t size) noexcept nogil:
        self.share.hold(<uint64_t>size)         # which wraps around, if it is less than nothing
        self.share.frames += <uint64_t>size
        self.share.budget.frames += <uint64_t>size

    cdef void let_go(self, Piece* piece) noexcept:
        """This segment, whoever has not read it: it is the stream's oldest."""
        cdef uint64_t end = self._segments.start + self._segments.used
        self._drop_first()
        if end > self.tail:
            self.first = self.entry_at(end)
            self.tail = end

    cdef void _drop_read(self) noexcept:
        """Of the segments that all readers have passed, but for the last one."""
        cdef uint64_t passed = self.head
        cdef uint32_t i
        if self._segments is NULL or self._segments is self._last:
            return
        for i in range(self.reader_count):
            passed = min(passed, (<Reader>self.readers[i]).place)
        while self._segments is not self._last and self._segments.start + self._segments.used <= passed:
            self._drop_first()
        if self._segments.start > self.tail:
            self.first = self.entry_at(self._segments.start)
            self.tail = self._segments.start

    def _check(self):
        cdef Segment* segment = self._segments
        cdef uint64_t place = self.tail, n
        if segment is not NULL:
            assert segment.start <= self.tail or self.tail == self.head
        while segment is not NULL:
            assert 0 < segment.used <= segment.size
            if segment.next is not NULL:
                assert segment.start + segment.used == segment.next.start
            else:
                assert segment is self._last
                assert segment.start + segment.used == self.head
            segment = segment.next
        for n in range(max(self.first, self.ring.oldest), self.ring.newest + 1):
            assert self.start_of(n) == place, (n, self.start_of(n), place)
            place = self.start_of(n + 1)
        assert place == self.head


cdef inline bint _hidden(const Slot* slot, uint64_t place, uint64_t skip_origin, uint64_t quiet_until) noexcept nogil:
    return ((skip_origin != 0 and slot.origin == skip_origin)
            or (place < quiet_until and slot.flags & EPHEMERAL_FLAG))
