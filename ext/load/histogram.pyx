# cython: language_level=3
"""Counts of values, with three significant digits over eight decades: Gil Tene's High Dynamic Range histogram.

    value      0 .. 2047    2048 .. 4095    4096 .. 8191    ...    up to 2**27 - 1 (134 s in microseconds)
    step           1             2               4                 each range has 1,024 counts, the first one 2,048
    index      value         1024 * shift + (value >> shift), where shift = bits of the value - 11

Larger values are counted in the last step, which is reported as ``largest``, the exact maximum."""
cimport cython
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

cdef enum:
    SUB_BITS = 11
    HALF = 1 << (SUB_BITS - 1)
    LARGEST = (1 << 27) - 1

cdef uint64_t COUNTS = HALF * (27 - SUB_BITS) + 2 * HALF

cdef extern from * nogil:
    int __builtin_clzll(unsigned long long value)


cdef inline uint64_t _index(uint64_t value) noexcept nogil:
    cdef int shift = 64 - __builtin_clzll(value | 1) - SUB_BITS
    return value if shift <= 0 else <uint64_t>HALF * <uint64_t>shift + (value >> shift)


cdef inline uint64_t _upper(uint64_t index) noexcept nogil:
    """The largest value that is counted at this index."""
    cdef uint64_t shift
    if index < 2 * HALF:
        return index
    shift = index // HALF - 1
    return ((index - shift * HALF + 1) << shift) - 1


@cython.final
cdef class Histogram:
    """Of non-negative integers, for example microseconds."""

    def __cinit__(self):
        self._counts = <uint64_t*>calloc(COUNTS, sizeof(uint64_t))
        if self._counts is NULL:
            raise MemoryError("no memory for a histogram")

    def __dealloc__(self):
        free(self._counts)

    def record(self, uint64_t value):
        self.add(value)

    cdef void add(self, uint64_t value) noexcept nogil:
        self._counts[_index(value if value < LARGEST else LARGEST)] += 1
        self.count += 1
        self._sum += <double>value
        if value > self.largest:
            self.largest = value

    @property
    def mean(self):
        return self._sum / <double>self.count if self.count else 0.0

    cdef uint64_t _told(self, uint64_t index) noexcept nogil:
        """The value reported for all values counted at this index."""
        cdef uint64_t upper = _upper(index)
        return upper if index < COUNTS - 1 and upper < self.largest else self.largest

    def percentile(self, double percent):
        """The smallest value (to three digits) that ``percent`` percent of all values do not exceed; 0 if there are
        none.

        Raises: ValueError, ``percent`` is not from 0 to 100.
        """
        cdef uint64_t wanted, seen = 0, i
        if not 0 <= percent <= 100:
            raise ValueError(f"a percentile is from 0 to 100, got {percent}")
        if self.count == 0:
            return 0
        wanted = <uint64_t>(percent / 100 * <double>self.count + 0.999999999)
        if wanted < 1:
            wanted = 1
        for i in range(COUNTS):
            seen += self._counts[i]
            if seen >= wanted:
                return self._told(i)
        return self.largest

    def merge(self, Histogram other not None):
        """Add the counts of ``other``."""
        cdef uint64_t i
        for i in range(COUNTS):
            self._counts[i] += other._counts[i]
        self.count += other.count
        self._sum += other._sum
        if other.largest > self.largest:
            self.largest = other.largest

    def clear(self):
        cdef uint64_t i
        for i in range(COUNTS):
            self._counts[i] = 0
        self.count = self.largest = 0
        self._sum = 0

    def steps(self):
        """All values that occur (the largest of each step) with the cumulative count: ``[(value, count), ...]``."""
        cdef uint64_t seen = 0, i
        cdef list found = []
        for i in range(COUNTS):
            if self._counts[i]:
                seen += self._counts[i]
                found.append((self._told(i), seen))
        return found
