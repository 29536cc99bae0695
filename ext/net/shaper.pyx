# cython: language_level=3
"""Delivery rates: deliveries beyond a reader's rates wait for their turn.

    open?    may every rate pass more?      a socket: its connection's, key's and app's; a stream: its channel's
    use      messages and bytes that have been handed over

Nothing is refused or dropped: a reader keeps its place, and reads on when the rates allow. The clock is the wall clock,
because other users of the keys' and apps' rates have no other."""
cimport cython
from libc.stdint cimport int64_t, uint64_t

from ext.net.kernel cimport wall_clock_ms
from ext.text.msgpack_input cimport In
from ext.log.rate cimport Rate
from ext.wire.record cimport Head, open_record
from ext.log.ring cimport Ring
from ext.log.stream cimport Stream


@cython.final
cdef class Shaper:
    """Up to three rates together (None: no rate)."""

    def __init__(self, Rate first, Rate second=None, Rate third=None):
        self._first = first
        self._second = second
        self._third = third

    def open(self, int64_t now_ms):
        """May something be handed over now?"""
        return self.is_open(now_ms)

    def take(self, int64_t now_ms, uint64_t count, uint64_t size):
        """``count`` messages, of ``size`` bytes together, have been handed over."""
        self.use(now_ms, count, size)

    def take_frames(self, int64_t now_ms, Stream stream not None, uint64_t begin, uint64_t end, uint64_t skip_origin):
        """Charge for the frames between these places of the stream, except those of ``skip_origin`` (0: all)."""
        self.use_frames(now_ms, stream, begin, end, skip_origin)

    def open_now(self):
        return self.is_open(wall_clock_ms())

    def take_now(self, uint64_t count, uint64_t size):
        self.use(wall_clock_ms(), count, size)

    def wait_ms(self, int64_t now_ms):
        """Time in ms until it may be open; 0: it is open."""
        return max([0] + [rate.wait_ms(now_ms) for rate in (self._first, self._second, self._third) if rate is not None])

    cdef bint is_open(self, int64_t now_ms) noexcept:
        return ((self._first is None or self._first.has_room(now_ms))
                and (self._second is None or self._second.has_room(now_ms))
                and (self._third is None or self._third.has_room(now_ms)))

    cdef void use(self, int64_t now_ms, uint64_t count, uint64_t size) noexcept:
        if self._first is not None:
            self._first.use(now_ms, count, size)
        if self._second is not None:
            self._second.use(now_ms, count, size)
        if self._third is not None:
            self._third.use(now_ms, count, size)

    cdef int use_frames(self, int64_t now_ms, Stream stream, uint64_t begin, uint64_t end, uint64_t skip_origin) except -1:
        cdef Ring ring = stream.ring
        cdef uint64_t n, count = 0, size = 0, start, following
        cdef In source
        cdef Head head
        if begin >= end:
            return 0
        n = stream.entry_at(begin)
        start = stream.start_of(n)
        while start < end:
            following = stream.start_of(n + 1)
            if not skip_origin or ring._slots[n & ring._mask].origin != skip_origin:
                open_record(&source, (<tuple>ring.entry_at(n))[2], &head)
                count += head.count
                size += following - start
            n += 1
            start = following
        self.use(now_ms, count, size)
        return 0
