# cython: language_level=3
"""Sets of integers in contiguous ranges: gaps, refusals.

    [3, 7) [9, 10) [20, 500)       ordered, disjoint, not adjacent, never empty: 16 bytes each, whatever their length

Numbers are added at the end and removed anywhere; ranges are found by bisection."""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove


@cython.final
cdef class Ranges:
    """``total`` numbers, in ``len`` ranges."""

    def __dealloc__(self):
        free(self._ranges)

    def __len__(self):
        return self._count

    def __contains__(self, uint64_t number):
        return self.has(number)

    def __iter__(self):
        return iter([(self._ranges[i].begin, self._ranges[i].end) for i in range(self._count)])

    def add(self, uint64_t begin, uint64_t end):
        """Add the numbers from ``begin`` to before ``end``. Raises: ValueError, they are not after all others."""
        if begin >= end or (self._count and begin < self._ranges[self._count - 1].end):
            raise ValueError(f"[{begin}, {end}) is empty, or not behind what is held")
        self.append(begin, end)

    def remove(self, uint64_t number):
        """Remove a number. True, if it was there."""
        return self.discard(number)

    def subtract(self, Ranges other not None):
        """Remove all numbers of ``other``. Returns: how many were removed."""
        cdef Ranges rest = Ranges.__new__(Ranges)
        cdef uint64_t begin, end
        cdef uint64_t before = self.total
        cdef size_t i, j = 0
        if self._count == 0 or other._count == 0:
            return 0
        for i in range(self._count):
            begin, end = self._ranges[i].begin, self._ranges[i].end
            while j < other._count and other._ranges[j].end <= begin:
                j += 1
            while begin < end and j < other._count and other._ranges[j].begin < end:
                if other._ranges[j].begin > begin:
                    rest.append(begin, other._ranges[j].begin)
                begin = other._ranges[j].end
                if begin < end:
                    j += 1              # else it may extend into our next range
            if begin < end:
                rest.append(begin, end)
        self._ranges, rest._ranges = rest._ranges, self._ranges
        self._count, self._room, self.total = rest._count, rest._room, rest.total
        return before - self.total

    # for compiled modules: numbers are in order already

    cdef int append(self, uint64_t begin, uint64_t end) except -1:
        if self._count and self._ranges[self._count - 1].end == begin:
            self._ranges[self._count - 1].end = end
        else:
            self._reserve(self._count + 1)
            self._ranges[self._count].begin = begin
            self._ranges[self._count].end = end
            self._count += 1
        self.total += end - begin
        return 0

    cdef bint discard(self, uint64_t number) except *:
        cdef size_t at
        cdef Range* found
        if not self.has(number):
            return False
        at = self._after(number) - 1
        found = &self._ranges[at]
        if found.begin == number and found.end == number + 1:
            memmove(found, found + 1, (self._count - at - 1) * sizeof(Range))
            self._count -= 1
        elif found.begin == number:
            found.begin += 1
        elif found.end == number + 1:
            found.end -= 1
        else:
            self._reserve(self._count + 1)
            found = &self._ranges[at]
            memmove(found + 1, found, (self._count - at) * sizeof(Range))
            found.end = number
            found[1].begin = number + 1
            self._count += 1
        self.total -= 1
        return True

    cdef bint has(self, uint64_t number) noexcept nogil:
        cdef size_t at = self._after(number)
        return at > 0 and number < self._ranges[at - 1].end

    cdef size_t _after(self, uint64_t number) noexcept nogil:
        """Index of the first range that begins after the number."""
        cdef size_t low = 0, high = self._count, middle
        while low < high:
            middle = low + (high - low) // 2
            if self._ranges[middle].begin <= number:
                low = middle + 1
            else:
                high = middle
        return low

    cdef int _reserve(self, size_t count) except -1:
        cdef size_t room = self._room if self._room else 2
        cdef Range* grown
        if count <= self._room:
            return 0
        while room < count:
            room *= 2
        grown = <Range*>realloc(self._ranges, room * sizeof(Range))
        if grown is NULL:
            raise MemoryError(f"no memory for {room} ranges")
        self._ranges = grown
        self._room = room
        return 0
