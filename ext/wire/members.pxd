"""The names of the members of a plain publish: those of the protocol message, and those of each message in it."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

from ext.wire.record cimport CLIENT_ID, DATA, ENCODING, ID, NAME

cdef enum:
    MESSAGE = 15                # the action

    # members of a message, after those that a record keeps: what must be 0; what is dropped; what is not plain
    ACTION = 5
    DROPPED = 6                 # size: ably-js calculates it itself
    DROPPED_TIMESTAMP = 7
    DROPPED_CONNECTION_ID = 8
    OTHER = 9

    # members of the protocol message, in the same way
    P_ACTION = 0
    P_CHANNEL = 1
    P_MSG_SERIAL = 2
    P_MESSAGES = 3
    P_NEEDED = 15               # the four above, as bits
    P_DROPPED = 4               # id
    P_DROPPED_TIMESTAMP = 5
    P_DROPPED_CONNECTION_ID = 6
    P_DROPPED_CONNECTION_KEY = 7
    P_DROPPED_CHANNEL_SERIAL = 8
    P_DROPPED_COUNT = 9
    P_DROPPED_FLAGS = 10
    P_OTHER = 11


cdef inline int message_member(const uint8_t* key, size_t size) noexcept nogil:
    if size == 4:
        if memcmp(key, b"data", 4) == 0:
            return DATA
        if memcmp(key, b"name", 4) == 0:
            return NAME
        return DROPPED if memcmp(key, b"size", 4) == 0 else OTHER
    if size == 8:
        if memcmp(key, b"encoding", 8) == 0:
            return ENCODING
        return CLIENT_ID if memcmp(key, b"clientId", 8) == 0 else OTHER
    if size == 2:
        return ID if memcmp(key, b"id", 2) == 0 else OTHER
    if size == 6:
        return ACTION if memcmp(key, b"action", 6) == 0 else OTHER
    if size == 9:
        return DROPPED_TIMESTAMP if memcmp(key, b"timestamp", 9) == 0 else OTHER
    if size == 12:
        return DROPPED_CONNECTION_ID if memcmp(key, b"connectionId", 12) == 0 else OTHER
    return OTHER


cdef inline int protocol_member(const uint8_t* key, size_t size) noexcept nogil:
    if size == 6:
        return P_ACTION if memcmp(key, b"action", 6) == 0 else P_OTHER
    if size == 7:
        return P_CHANNEL if memcmp(key, b"channel", 7) == 0 else P_OTHER
    if size == 8:
        return P_MESSAGES if memcmp(key, b"messages", 8) == 0 else P_OTHER
    if size == 9:
        if memcmp(key, b"msgSerial", 9) == 0:
            return P_MSG_SERIAL
        return P_DROPPED_TIMESTAMP if memcmp(key, b"timestamp", 9) == 0 else P_OTHER
    if size == 2:
        return P_DROPPED if memcmp(key, b"id", 2) == 0 else P_OTHER
    if size == 5:
        if memcmp(key, b"count", 5) == 0:
            return P_DROPPED_COUNT
        return P_DROPPED_FLAGS if memcmp(key, b"flags", 5) == 0 else P_OTHER
    if size == 12:
        return P_DROPPED_CONNECTION_ID if memcmp(key, b"connectionId", 12) == 0 else P_OTHER
    if size == 13:
        if memcmp(key, b"connectionKey", 13) == 0:
            return P_DROPPED_CONNECTION_KEY
        return P_DROPPED_CHANNEL_SERIAL if memcmp(key, b"channelSerial", 13) == 0 else P_OTHER
    return P_OTHER


cdef inline bint first_time(uint32_t* seen, int member, int other) noexcept nogil:
    """Is the member known, and not repeated in this map? Decoders differ in which of two they take."""
    if member == other or seen[0] >> member & 1:
        return False
    seen[0] |= <uint32_t>1 << member
    return True
