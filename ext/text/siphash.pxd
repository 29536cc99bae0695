"""SipHash-2-4 with 128 bits: Aumasson and Bernstein, "SipHash: a fast short-input PRF", and their reference code."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from ext.text.words cimport eight_at, le64toh


cdef struct Hash:
    uint64_t low
    uint64_t high


cdef inline uint64_t _rotate(uint64_t x, int bits) noexcept nogil:
    return x << bits | x >> (64 - bits)


cdef inline void _sip_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]; v[1] = _rotate(v[1], 13) ^ v[0]; v[0] = _rotate(v[0], 32)
    v[2] += v[3]; v[3] = _rotate(v[3], 16) ^ v[2]
    v[0] += v[3]; v[3] = _rotate(v[3], 21) ^ v[0]
    v[2] += v[1]; v[1] = _rotate(v[1], 17) ^ v[2]; v[2] = _rotate(v[2], 32)


cdef inline Hash siphash(uint64_t key0, uint64_t key1, const char* data, size_t size) noexcept nogil:
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef size_t at = 0
    cdef int i
    cdef Hash result
    v[0] = key0 ^ <uint64_t>0x736f6d6570736575
    v[1] = key1 ^ <uint64_t>0x646f72616e646f6d ^ 0xee           # 0xee here and 0xdd below: the 128-bit variant
    v[2] = key0 ^ <uint64_t>0x6c7967656e657261
    v[3] = key1 ^ <uint64_t>0x7465646279746573
    while size - at >= 8:
        word = eight_at(<const uint8_t*>data + at)
        v[3] ^= word
        _sip_round(v)
        _sip_round(v)
        v[0] ^= word
        at += 8
    word = 0
    memcpy(&word, data + at, size - at)                         # 0 to 7 bytes
    word = le64toh(word) | (<uint64_t>size << 56)
    v[3] ^= word
    _sip_round(v)
    _sip_round(v)
    v[0] ^= word
    v[2] ^= 0xee
    for i in range(4):
        _sip_round(v)
    result.low = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xdd
    for i in range(4):
        _sip_round(v)
    result.high = v[0] ^ v[1] ^ v[2] ^ v[3]
    return result
