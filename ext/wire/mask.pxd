"""Masking (RFC 6455, section 5.3): a client's payload XOR a repeated key of four bytes; unmasking is the same
operation."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef inline void fill_mask(uint64_t* state, uint8_t* key) noexcept nogil:
    """Four bytes that outsiders can hardly guess (xorshift; ``state`` is initially random, and not 0)."""
    cdef uint64_t word = state[0]
    word ^= word << 13
    word ^= word >> 7
    word ^= word << 17
    state[0] = word
    memcpy(key, &word, 4)


cdef inline void apply_mask(uint8_t* data, size_t size, const uint8_t* key) noexcept nogil:
    """In place, eight bytes at a time; memcpy avoids alignment traps and costs nothing."""
    cdef uint64_t word, mask
    cdef size_t i = 0
    memcpy(&mask, key, 4)
    memcpy(<uint8_t*>&mask + 4, key, 4)
    while size - i >= 8:
        memcpy(&word, data + i, 8)
        word ^= mask
        memcpy(data + i, &word, 8)
        i += 8
    while i < size:
        data[i] ^= key[i & 3]
        i += 1
