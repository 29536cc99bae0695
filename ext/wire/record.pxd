"""Read a record, strictly and without an object per field: the journal's data is not trusted.

    record    msgpack [id, connectionId | nil, clientId | nil, flags, [message, ...]]
    flags     bit 0: ephemeral; bits 8 and up: the version of the record, 0. Other versions are refused
    message   map of "id", "clientId", "name", "data", "encoding", "extras": only those present, in this order

    open_record -> Head, then read_message -> Fields for each of its messages, then end_record

Text is valid UTF-8, extras are a map of JSON values, and nothing follows. Anything else is a ValueError."""
from libc.math cimport isfinite
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from ext.text.msgpack_input cimport (I_ARRAY, I_BAD, I_BIN, I_EXT, I_FLOAT, I_MAP, I_NIL, I_STR, I_UINT, In, Item,
                                read_item)
from ext.text.utf8 cimport Text, is_utf8

cdef enum:
    MAX_MESSAGES = 1000        # of one entry: an index has three digits
    VERSION_AT = 8              # of flags
    DEEPEST_EXTRAS = 64         # nested maps and arrays; permits recursion over extras

    ID = 0
    CLIENT_ID = 1
    NAME = 2
    DATA = 3
    ENCODING = 4
    TEXTS = 5
    EXTRAS = 5
    FIELDS = 6

cdef struct Head:
    Text id
    Text connection_id
    Text client_id              # for messages that name none
    uint64_t flags
    uint32_t count              # of messages

cdef struct Fields:
    Text text[TEXTS]
    bint binary                 # DATA is bytes
    In extras                   # one msgpack map; data NULL: none


cdef inline int malformed() except -1:
    raise ValueError("the record is malformed")


cdef inline int open_record(In* source, bytes record, Head* head) except -1:
    return open_record_at(source, <const uint8_t*><const char*>record, <size_t>len(record), head)


cdef inline int open_record_at(In* source, const uint8_t* record, size_t size, Head* head) except -1:
    """The same for a record in memory that ``source`` borrows."""
    cdef Item item
    memset(head, 0, sizeof(Head))
    source.data = record
    source.size = size
    source.at = 0
    if read_item(source, &item) != I_ARRAY or item.size != 5:
        malformed()
    _read_optional(source, &head.id)
    if head.id.data is NULL:
        malformed()
    _read_optional(source, &head.connection_id)
    _read_optional(source, &head.client_id)
    if read_item(source, &item) != I_UINT:
        malformed()
    head.flags = item.number
    if head.flags >> VERSION_AT:
        raise ValueError(f"the record has version {head.flags >> VERSION_AT}, and this server reads version 0: "
                         "a newer one has written it")
    if read_item(source, &item) != I_ARRAY or not 0 < item.size <= MAX_MESSAGES:
        malformed()
    head.count = <uint32_t>item.size
    return 0


cdef inline int end_record(In* source) except -1:
    if source.at != source.size:
        malformed()
    return 0


cdef inline int _read_optional(In* source, Text* text) except -1:
    cdef Item item
    if read_item(source, &item) == I_NIL:
        return 0
    if item.kind == I_STR and is_utf8(item.data, item.size):
        text.data = item.data
        text.size = item.size
        return 0
    return malformed()


cdef inline int _field(const uint8_t* key, size_t size) noexcept nogil:
    if size == 4:
        if memcmp(key, b"data", 4) == 0:
            return DATA
        return NAME if memcmp(key, b"name", 4) == 0 else -1
    if size == 8:
        if memcmp(key, b"encoding", 8) == 0:
            return ENCODING
        return CLIENT_ID if memcmp(key, b"clientId", 8) == 0 else -1
    if size == 2:
        return ID if memcmp(key, b"id", 2) == 0 else -1
    if size == 6:
        return EXTRAS if memcmp(key, b"extras", 6) == 0 else -1
    return -1


cdef inline int read_message(In* source, Fields* fields) except -1:
    cdef Item item
    cdef size_t left
    cdef int field, last = -1
    memset(fields, 0, sizeof(Fields))
    if read_item(source, &item) != I_MAP or item.size > FIELDS:
        malformed()
    left = item.size
    while left:
        left -= 1
        if read_item(source, &item) != I_STR:
            malformed()
        field = _field(item.data, item.size)
        if field <= last:                       # unknown, repeated, or out of order
            malformed()
        last = field
        if field == EXTRAS:
            _read_extras(source, &fields.extras)
            continue
        read_item(source, &item)
        if item.kind == I_BIN and field == DATA:
            fields.binary = True
        elif item.kind != I_STR or not is_utf8(item.data, item.size):
            malformed()
        fields.text[field].data = item.data
        fields.text[field].size = item.size
    return 0


cdef inline int _read_extras(In* source, In* extras) except -1:
    cdef size_t start = source.at
    cdef Item item
    if read_item(source, &item) != I_MAP:
        malformed()
    source.at = start
    _check_value(source, 1)
    extras.data = source.data + start
    extras.size = source.at - start
    return 0


cdef inline int _check_value(In* source, int depth) except -1:
    """Skip one value. If it is a map or an array, ``depth`` is its depth of nesting."""
    cdef Item item
    cdef size_t left
    read_item(source, &item)
    if item.kind == I_STR:
        if not is_utf8(item.data, item.size):
            malformed()
    elif item.kind == I_MAP or item.kind == I_ARRAY:
        if depth > DEEPEST_EXTRAS:
            malformed()
        left = item.size
        while left:
            left -= 1
            if item.kind == I_MAP:
                _check_key(source)
            _check_value(source, depth + 1)
    elif item.kind == I_BAD or item.kind == I_EXT or (item.kind == I_FLOAT and not isfinite(item.real)):
        malformed()
    return 0


cdef inline int _check_key(In* source) except -1:
    cdef Item item
    if read_item(source, &item) != I_STR or not is_utf8(item.data, item.size):
        malformed()
    return 0
