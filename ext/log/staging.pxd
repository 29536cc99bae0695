"""The ids of a publish, searched and remembered together; and the record of a plain one."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ext.log.dedup cimport DedupWindow, Id
from ext.wire.publish cimport Parser

cdef enum:
    LONGEST_INDEX = 3           # digits: a publish has 1000 messages at most


cdef inline size_t decimal(uint8_t* to, uint64_t value) noexcept nogil:
    """Write the number; returns how many digits it has (20 at most)."""
    cdef uint8_t digits[20]
    cdef size_t size = 0, i
    while True:
        digits[size] = <uint8_t>(c'0' + value % 10)
        value //= 10
        size += 1
        if value == 0:
            break
    for i in range(size):
        to[i] = digits[size - 1 - i]
    return size


cdef struct Names:              # the ids of a publish: one, or <base>0, <base>1, ...
    uint8_t* base               # with its colon; followed by space for an index
    size_t size                 # of the base
    uint32_t count
    Id first                    # of its first message; of a single message, whatever the base


cdef inline Names names_after(DedupWindow dedup, uint8_t* base, size_t size, uint32_t count) noexcept:
    """The ids ``<base><index>``."""
    return Names(base, size, count, dedup.id_of(base, size + decimal(base + size, 0)))


cdef inline bint holds_any(DedupWindow dedup, Names* names) noexcept:
    """Is any of them in the window?"""
    cdef uint32_t index
    cdef Id id
    if names.count == 1:
        return dedup.holds(&names.first)
    if names.first.is_counted:
        return dedup.holds_some(&names.first, names.count)
    if dedup.holds(&names.first):
        return True
    for index in range(1, names.count):
        id = dedup.id_of(names.base, names.size + decimal(names.base + names.size, index))
        if dedup.holds(&id):
            return True
    return False


cdef inline int remember(DedupWindow dedup, Names* names, uint64_t serial, uint64_t at_ms) except -1:
    """Add all of them, of which none is held, to the window."""
    if names.count == 1:
        dedup.take(&names.first, serial, 0, at_ms)
    else:
        decimal(names.base + names.size, 0)     # ``first`` points there
        dedup.take_all(&names.first, names.count, serial, at_ms)
    return 0


cdef inline bytes new_record(const uint8_t* base, size_t length, bytes sender, Parser parser):
    """The record of a publish (its form: ext/wire/record.pxd), written once, in place: all its sizes are known.

    ``base``, of up to 65535 bytes: its id; ``sender``: connection id, client id and flags, packed."""
    cdef size_t sender_size = <size_t>len(sender), size = parser.out.size - 1   # preceded by space for a short header
    cdef size_t base_head = 1 if length < 32 else 2 if length < 256 else 3, count_head = 1 if parser.count < 16 else 3
    cdef bytes record = PyBytes_FromStringAndSize(
        NULL, <Py_ssize_t>(1 + base_head + length + sender_size + count_head + size))
    cdef uint8_t* to = <uint8_t*>PyBytes_AS_STRING(record)
    to[0] = 0x95
    if base_head == 1:
        to[1] = <uint8_t>(0xa0 | length)
    elif base_head == 2:
        to[1] = 0xd9
        to[2] = <uint8_t>length
    else:
        to[1] = 0xda
        to[2] = <uint8_t>(length >> 8)
        to[3] = <uint8_t>length
    to += 1 + base_head
    memcpy(to, base, length)
    to += length
    memcpy(to, PyBytes_AS_STRING(sender), sender_size)
    to += sender_size
    if count_head == 1:
        to[0] = <uint8_t>(0x90 | parser.count)
    else:
        to[0] = 0xdc
        to[1] = <uint8_t>(parser.count >> 8)
        to[2] = <uint8_t>parser.count
    memcpy(to + count_head, parser.out.data + 1, size)
    return record
