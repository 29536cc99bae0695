"""Search text many bytes at a time: are there bytes that need individual attention?"""
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef extern from "<endian.h>" nogil:
    uint64_t le64toh(uint64_t)

cdef extern from * nogil:
    int ctz "__builtin_ctzll"(uint64_t word)        # zeros below the lowest bit that is set; the word must not be 0


cdef inline uint64_t eight_at(const uint8_t* at) noexcept nogil:
    """The first byte in the lowest bits; any alignment."""
    cdef uint64_t word
    memcpy(&word, at, 8)
    return le64toh(word)


cdef inline uint64_t unplain(uint64_t word) noexcept nogil:
    """0, if JSON text may hold all of these eight bytes as they are (no control, quote, backslash; ASCII or not). Else
    the lowest bit that is set is the highest bit of the first other byte: ``ctz`` divided by 8 is the index of that
    byte."""
    cdef uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u
    cdef uint64_t quote = word ^ (ones * c'"'), slash = word ^ (ones * c'\\')
    return (((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((word - ones * c' ') & ~word)) & high


cdef inline bint is_ascii(uint64_t word) noexcept nogil:
    return not word & 0x8080808080808080u


cdef inline bint plain_block(const uint8_t* at) noexcept nogil:
    """May JSON text hold these 32 bytes as they are? Compilers turn the loop into a few vector instructions."""
    cdef uint8_t found = 0
    cdef int i
    for i in range(32):
        found |= <uint8_t>((at[i] < c' ') | (at[i] == c'"') | (at[i] == c'\\'))
    return found == 0


cdef inline bint ascii_block(const uint8_t* at) noexcept nogil:
    """Are these 32 bytes ASCII? In the same way."""
    cdef uint8_t seen = 0
    cdef int i
    for i in range(32):
        seen |= at[i]
    return seen < 0x80
