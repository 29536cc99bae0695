# cython: language_level=3
"""The frames of a ring's entries in one variant, contiguous, so that one send can take a run of them.

    place     tail                                   head        bytes since the stream began
               |  n   |  n+1  |   n+2   | ... | newest |
               [ segment      ][ segment       ][ seg   ]        a frame never straddles two segments
    offsets   a column of the ring (ext/log/ring.pyx): by slot, the place of the entry's frame

A reader's position is one number, its place; a slow reader's place is smaller. Nothing here waits, locks or copies a
payload per reader. When an entry is evicted, so is its frame. If all streams together hold more than FRAMES_BYTES,
frames that all readers have passed are evicted earlier; for a reader that returns to them they are made again from the
entries."""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from ext.log.budget cimport Piece, dequeue, enqueue
from ext.log.entry cimport EPHEMERAL_FLAG
from ext.log.ring cimport Column, Ring, Slot

cdef enum:
    FIRST_SEGMENT = 2048
    LARGEST_SEGMENT = 256 * 1024    # one send takes about 200 KiB at most; larger segments would free memory too late
    FRAMES_BYTES = 32 * 1024 * 1024 # of frames kept for readers that may return
    LARGEST_FRAME = 1 << 30         # far above any limit on messages; keeps the sum of two in 32 bits


cdef class Reader:
    """Reads a stream; the plane's readers derive from it."""


@cython.final
@cython.no_gc_clear
cdef class Stream(Column):
    """The frames of a ring's entries in one wire format, from the entry after the newest one onwards."""

    def __cinit__(self, Ring ring not None, object encoder):
        self.share = ring.share
        self.ring = ring
        self.encoder = encoder
        self.first = ring.newest + 1
        ring.add(self)

    def __dealloc__(self):
        if self.share is None:
            return
        while self._segments is not NULL:
            self._drop_first()
        self.share.release(self._room * sizeof(uint64_t))
        free(self._offsets)
        free(self._made)
        free(self.readers.items)

    def close(self):
        """Remove it from its ring; nobody may read it any more."""
        if self.readers.count:
            raise ValueError("the stream still has readers")
        self.ring.streams.remove(self)
        while self._segments is not NULL:
            self._drop_first()

    @property
    def readers_now(self):
        """The number of its readers."""
        return self.readers.count

    def append(self, bytes frame not None):
        """Append the frame of the ring's newest entry."""
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
        """The place where a reader with this cursor reads on, or None if the stream does not reach back so far."""
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
            if limit - place <= budget:         # the usual case: the whole rest of the segment
                return limit - place
        n = self.entry_at(place)
        while n <= self.ring.newest:            # skip what is not for this reader
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

    cdef int make_slots(self, uint64_t capacity) except -1:
        """Allocate them beside those in use."""
        self._made = <uint64_t*>calloc(<size_t>capacity, sizeof(uint64_t))
        if self._made is NULL:
            raise MemoryError(f"no memory for {capacity} offsets")
        self._made_room = capacity
        return 0

    cdef void use_made(self, uint64_t oldest, uint64_t newest, uint64_t mask) noexcept:
        """Switch to them, with the data of these entries."""
        cdef uint64_t n
        for n in range(oldest, newest + 1):
            self._made[n & (self._made_room - 1)] = self._offsets[n & mask]
        free(self._offsets)
        self._offsets = self._made
        self._made = NULL
        self.share.release(self._room * sizeof(uint64_t))
        self.share.hold(self._made_room * sizeof(uint64_t))
        self._room = self._made_room

    cdef void drop_made(self) noexcept:
        free(self._made)
        self._made = NULL

    cdef void trim(self) noexcept nogil:
        """Free the segments of which no frame is held any more."""
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
        self.share.hold(<uint64_t>size)         # wraps around if it is negative
        self.share.frames += <uint64_t>size
        self.share.budget.frames += <uint64_t>size

    cdef void let_go(self, Piece* piece) noexcept:
        """Evict this segment, the stream's oldest, even if it is unread."""
        cdef uint64_t end = self._segments.start + self._segments.used
        self._drop_first()
        if end > self.tail:
            self.first = self.entry_at(end)
            self.tail = end

    cdef void _drop_read(self) noexcept:
        """Free the segments that all readers have passed, except the last one."""
        cdef uint64_t passed = self.head
        cdef uint32_t i
        if self._segments is NULL or self._segments is self._last:
            return
        for i in range(self.readers.count):
            passed = min(passed, (<Reader>self.readers.items[i]).place)
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

    def _counted(self):
        """Bytes of the budget that it must count for; for tests."""
        cdef uint64_t size = self._room * sizeof(uint64_t)
        cdef Segment* segment = self._segments
        while segment is not NULL:
            size += sizeof(Segment) + segment.size
            segment = segment.next
        return size


cdef inline bint _hidden(const Slot* slot, uint64_t place, uint64_t skip_origin, uint64_t quiet_until) noexcept nogil:
    return ((skip_origin != 0 and slot.origin == skip_origin)
            or (place < quiet_until and slot.flags & EPHEMERAL_FLAG))
