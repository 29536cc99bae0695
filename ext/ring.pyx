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
streams on, frames that everybody has passed go before: whoever comes back for them has them made anew, of the entry."""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

EPHEMERAL = EPHEMERAL_FLAG

cdef enum:
    FIRST_SLOTS = 2                 # most channels are quiet: a ring starts small and doubles
    FIRST_SEGMENT = 2048
    LARGEST_SEGMENT = 256 * 1024    # one send takes some 200 KiB at most; larger segments would free memory too late
    FRAMES_BYTES = 32 * 1024 * 1024 # of frames kept for those who may come back: new memory costs more than making them anew
    LARGEST_FRAME = 1 << 30         # far above any limit on messages; keeps the sum of two in 32 bits


cdef uint64_t _all_frames = 0       # bytes of segments, in all streams


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
cdef class Ring:
    """The newest entries, bounded by their number, their bytes, and by ``trim`` in age."""

    def __cinit__(self, uint64_t max_entries, uint64_t max_bytes, uint64_t evicted=0, str series=None):
        """With a ``series``, an entry that is bytes is a record of that series, and is read as ``(serial, series, record)``:
        an object for each would be a quarter of what entries hold in memory, and few are ever read."""
        if max_entries == 0 or max_entries & (max_entries - 1):
            raise ValueError(f"max_entries must be a power of two, got {max_entries}")
        if max_entries > 1 << 30:
            raise ValueError(f"max_entries must be at most {1 << 30}, got {max_entries}")
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self.evicted = evicted
        self.series = series
        self.oldest = 1
        self.streams = []

    def __dealloc__(self):
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
        if self._slots is NULL or (self.newest + 1 - self.oldest > self._mask and self._mask + 1 < self._max_entries):
            self._grow()
        while self.oldest <= self.newest and (self.newest + 1 - self.oldest > self._mask
                                              or self.held_bytes + size > self._max_bytes):
            self._evict()
        self.newest += 1
        cdef Slot* slot = &self._slots[self.newest & self._mask]
        slot.serial = serial
        slot.origin = origin
        slot.size = size
        slot.flags = flags
        self._entries[<Py_ssize_t>(self.newest & self._mask)] = entry
        self.held_bytes += size
        return 0

    def trim(self, uint64_t cursor):
        """Let go of every entry up to and including ``cursor``."""
        while self.oldest <= self.newest and self._slots[self.oldest & self._mask].serial <= cursor:
            self._evict()

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
            return self._slots[n & self._mask].serial, self.series, entry
        return entry

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

    cdef int _grow(self) except -1:
        cdef uint64_t n, capacity = FIRST_SLOTS if self._slots is NULL else (self._mask + 1) * 2
        if capacity > self._max_entries:
            capacity = self._max_entries
        cdef Slot* slots = <Slot*>calloc(<size_t>capacity, sizeof(Slot))
        if slots is NULL:
            raise MemoryError(f"no memory for {capacity} slots")
        cdef list entries = [None] * <Py_ssize_t>capacity
        cdef Stream stream
        for stream in self.streams:
            _resize_offsets(stream, self.oldest, self.newest, self._mask, capacity)
        for n in range(self.oldest, self.newest + 1):
            slots[n & (capacity - 1)] = self._slots[n & self._mask]
            entries[<Py_ssize_t>(n & (capacity - 1))] = self._entries[<Py_ssize_t>(n & self._mask)]
        free(self._slots)
        self._slots = slots
        self._entries = entries
        self._mask = capacity - 1
        return 0

    cdef void _evict(self):
        cdef Slot* slot = &self._slots[self.oldest & self._mask]
        self.evicted = slot.serial
        self.held_bytes -= slot.size
        self._entries[<Py_ssize_t>(self.oldest & self._mask)] = None
        self.oldest += 1
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


cdef int _resize_offsets(Stream stream, uint64_t oldest, uint64_t newest, uint64_t mask, uint64_t capacity) except -1:
    cdef uint64_t n
    cdef uint64_t* offsets = <uint64_t*>calloc(<size_t>capacity, sizeof(uint64_t))
    if offsets is NULL:
        raise MemoryError(f"no memory for {capacity} offsets")
    if stream._offsets is not NULL:
        for n in range(oldest, newest + 1):
            offsets[n & (capacity - 1)] = stream._offsets[n & mask]
        free(stream._offsets)
    stream._offsets = offsets
    return 0


cdef class Reader:
    """Reads a stream; the plane's are derived from it."""


@cython.final
cdef class Stream:
    """The frames of a ring's entries in one wire format, from the entry after the newest one onwards."""

    def __cinit__(self, Ring ring not None, object encoder):
        self.ring = ring
        self.encoder = encoder
        self.first = ring.newest + 1
        self.parked = set()
        if ring._slots is NULL:
            ring._grow()
        _resize_offsets(self, 1, 0, ring._mask, ring._mask + 1)
        ring.streams.append(self)

    def __dealloc__(self):
        while self._segments is not NULL:
            self._drop_first()
        free(self._offsets)
        free(self.readers)

    def close(self):
        """Take it out of its ring; nobody may read it any more."""
        if self.reader_count or self.parked:
            raise ValueError("the stream still has readers")
        self.ring.streams.remove(self)

    @property
    def readers_now(self):
        """How many read it, from the plane or parked beside it."""
        return self.reader_count + len(self.parked)

    def append(self, bytes frame not None):
        """Take the frame of the ring's newest entry."""
        self.take(<const uint8_t*><const char*>frame, <size_t>len(frame))

    cdef int take(self, const uint8_t* frame, size_t length) except -1:
        global _all_frames
        if not 0 < length <= LARGEST_FRAME:
            raise ValueError(f"a frame has 1 to {<int>LARGEST_FRAME} bytes, got {length}")
        cdef uint32_t size = <uint32_t>length
        cdef uint64_t room
        cdef Segment* segment = self._last
        self._offsets[self.ring.newest & self.ring._mask] = self.head
        if segment is NULL or segment.size - segment.used < size:
            if _all_frames > FRAMES_BYTES:
                self._let_go()
            room = FIRST_SEGMENT if segment is NULL else <uint64_t>segment.size * 2
            if room > LARGEST_SEGMENT:
                room = LARGEST_SEGMENT
            if room < size:
                room = size
            segment = <Segment*>malloc(sizeof(Segment) + <size_t>room)
            if segment is NULL:
                raise MemoryError(f"no memory for a segment of {room} bytes")
            segment.next = NULL
            segment.start = self.head
            segment.used = 0
            segment.size = <uint32_t>room
            self.allocated += room
            _all_frames += room
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
        global _all_frames
        cdef Segment* segment = self._segments
        self._segments = segment.next
        if self._segments is NULL:
            self._last = NULL
        self.allocated -= segment.size
        _all_frames -= segment.size
        free(segment)

    cdef void _let_go(self) noexcept:
        """Of the segments that all readers have passed, but for the last one. (Who waits beside the plane has a place of
        his own, which is not known here: then of none.)"""
        cdef uint64_t passed = self.head
        cdef uint32_t i
        if self._segments is NULL or self._segments is self._last or self.parked:
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
