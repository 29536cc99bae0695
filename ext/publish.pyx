# cython: language_level=3
"""A plain publish, from its bytes to what a record holds, in one pass.

    {"action":15,"channel":"c","msgSerial":7,"messages":[{"name":"n","data":"d"}]}      JSON or msgpack
        -> Publish(channel, msg_serial, count, size, ids, client_ids, messages)

Plain means: creates, whose members are strings (data may be binary in msgpack): name, data, encoding, clientId, id. All
else is None here, whether it is unusual (extras, params, base64, objects) or wrong: the cold path takes it from there and
has the exact answer. So nothing is refused in this room, and nothing is accepted that the cold path would refuse."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ext.msgpack_input cimport I_ARRAY, I_BIN, I_MAP, I_NIL, I_STR, I_UINT, In, Item, read_item, skip_item
from ext.output cimport Out, out_init, put, put_array_header, put_bin_header, put_byte, put_map_header, put_str
from ext.utf8 cimport is_utf8

cdef enum:
    MESSAGE = 15
    MOST_MESSAGES = 1000
    ROOM = 512

    # members of a message that a record keeps, in its order; then what is dropped, and what is not for this room
    ID = 0
    CLIENT_ID = 1
    NAME = 2
    DATA = 3
    ENCODING = 4
    KEPT = 5
    ACTION = 5
    DROPPED = 6
    OTHER = 7

    # members of the protocol message
    P_ACTION = 0
    P_CHANNEL = 1
    P_MSG_SERIAL = 2
    P_MESSAGES = 3
    P_DROPPED = 4
    P_OTHER = 5

cdef struct Text:
    const uint8_t* data
    size_t size
    bint binary


@cython.final
@cython.freelist(64)
cdef class Publish:
    """One inbound publish: its form is right; what its sender may do is not looked at.

    ``messages`` is the msgpack array for a record; ``size`` is what counts against maxMessageSize; ``ids`` and
    ``client_ids`` are those that the messages name (None: none does). ``params``, ``ephemeral`` and ``privileged`` come
    from the cold path only.
    """

    cdef readonly str channel
    cdef readonly uint64_t msg_serial
    cdef readonly uint32_t count
    cdef readonly uint64_t size
    cdef readonly tuple ids, client_ids
    cdef readonly bint ephemeral, privileged
    cdef readonly bytes messages
    cdef readonly dict params

    def __init__(self, str channel not None, uint64_t msg_serial, uint32_t count, uint64_t size, tuple ids,
                 tuple client_ids, bytes messages not None, *, bint ephemeral=False, bint privileged=False,
                 dict params=None):
        self.channel = channel
        self.msg_serial = msg_serial
        self.count = count
        self.size = size
        self.ids = ids
        self.client_ids = client_ids
        self.messages = messages
        self.ephemeral = ephemeral
        self.privileged = privileged
        self.params = params


cdef struct Members:
    Text text[KEPT]
    uint32_t seen               # a bit for each member, so that none counts twice


@cython.final
cdef class _Builder:
    """What has been read of a publish so far."""

    cdef Out out                # the messages, without the array's header
    cdef Out scratch            # strings that had escapes
    cdef uint32_t count
    cdef uint64_t size
    cdef list ids, client_ids
    cdef bint has_ids, has_client_ids

    def __cinit__(self):
        self.scratch.data = NULL
        self.ids = []
        self.client_ids = []

    def __dealloc__(self):
        PyMem_Free(self.out.data)
        PyMem_Free(self.scratch.data)

    cdef bint add(self, Members* members) except -1:
        """One message; False: it is not plain."""
        cdef int i, present = 0
        cdef Text* text = members.text
        for i in range(KEPT):
            present += text[i].data is not NULL
        put_map_header(&self.out, <uint32_t>present)
        if text[ID].data is not NULL:
            put(&self.out, b"\xa2id", 3)
            put_str(&self.out, text[ID].data, text[ID].size)
            self.ids.append(_decode(&text[ID]))
            if text[ID].size == 0:
                return False
        if text[CLIENT_ID].data is not NULL:
            put(&self.out, b"\xa8clientId", 9)
            put_str(&self.out, text[CLIENT_ID].data, text[CLIENT_ID].size)
            self.has_client_ids = True
            self.client_ids.append(_decode(&text[CLIENT_ID]))
            if text[CLIENT_ID].size == 0:
                return False
        else:
            self.client_ids.append(None)
        if text[NAME].data is not NULL:
            put(&self.out, b"\xa4name", 5)
            put_str(&self.out, text[NAME].data, text[NAME].size)
        if text[DATA].data is not NULL:
            put(&self.out, b"\xa4data", 5)
            if text[DATA].binary:
                put_bin_header(&self.out, text[DATA].size)
                put(&self.out, text[DATA].data, text[DATA].size)
            else:
                put_str(&self.out, text[DATA].data, text[DATA].size)
        if text[ENCODING].data is not NULL:
            put(&self.out, b"\xa8encoding", 9)
            put_str(&self.out, text[ENCODING].data, text[ENCODING].size)
        self.size += text[NAME].size + text[CLIENT_ID].size + text[DATA].size
        self.count += 1
        return self.count <= MOST_MESSAGES

    cdef Publish finish(self, Text* channel, uint64_t msg_serial):
        cdef Out whole
        cdef size_t n
        cdef str base
        cdef Publish publish
        if self.count == 0 or self.out.failed:
            return None
        if self.ids and <uint32_t>len(self.ids) != self.count:
            return None                             # some have ids and some have none
        if self.ids and self.count > 1:             # every one must be <base>:<index>
            if not self.ids[0].endswith(":0"):
                return None
            base = self.ids[0][:-1]
            for n in range(1, self.count):
                if self.ids[n] != f"{base}{n}":
                    return None
        publish = Publish.__new__(Publish)
        publish.channel = _decode(channel)
        publish.msg_serial = msg_serial
        publish.count = self.count
        publish.size = self.size
        publish.ids = tuple(self.ids) if self.ids else None
        publish.client_ids = tuple(self.client_ids) if self.has_client_ids else None
        if self.count == 1:                         # the usual case: its header was put in front
            publish.messages = PyBytes_FromStringAndSize(<char*>self.out.data, <Py_ssize_t>self.out.size)
            return publish
        out_init(&whole, self.out.size + 3)
        put_array_header(&whole, self.count)
        put(&whole, self.out.data + 1, self.out.size - 1)
        publish.messages = PyBytes_FromStringAndSize(<char*>whole.data, <Py_ssize_t>whole.size)
        PyMem_Free(whole.data)
        return publish


cdef str _decode(Text* text):
    return PyUnicode_DecodeUTF8(<const char*>text.data, <Py_ssize_t>text.size, NULL)


cdef int _member(const uint8_t* key, size_t size) noexcept nogil:
    if size == 2:
        return ID if memcmp(key, b"id", 2) == 0 else OTHER
    if size == 4:
        if memcmp(key, b"data", 4) == 0:
            return DATA
        if memcmp(key, b"name", 4) == 0:
            return NAME
        return DROPPED if memcmp(key, b"size", 4) == 0 else OTHER
    if size == 6:
        return ACTION if memcmp(key, b"action", 6) == 0 else OTHER
    if size == 8:
        if memcmp(key, b"encoding", 8) == 0:
            return ENCODING
        return CLIENT_ID if memcmp(key, b"clientId", 8) == 0 else OTHER
    if size == 9:
        return DROPPED if memcmp(key, b"timestamp", 9) == 0 else OTHER
    if size == 12:
        return DROPPED if memcmp(key, b"connectionId", 12) == 0 else OTHER
    return OTHER


cdef int _top(const uint8_t* key, size_t size) noexcept nogil:
    if size == 2:
        return P_DROPPED if memcmp(key, b"id", 2) == 0 else P_OTHER
    if size == 6:
        return P_ACTION if memcmp(key, b"action", 6) == 0 else P_OTHER
    if size == 7:
        return P_CHANNEL if memcmp(key, b"channel", 7) == 0 else P_OTHER
    if size == 8:
        return P_MESSAGES if memcmp(key, b"messages", 8) == 0 else P_OTHER
    if size == 9:
        if memcmp(key, b"msgSerial", 9) == 0:
            return P_MSG_SERIAL
        return P_DROPPED if memcmp(key, b"timestamp", 9) == 0 else P_OTHER
    if size == 12:
        return P_DROPPED if memcmp(key, b"connectionId", 12) == 0 else P_OTHER
    return P_OTHER


# JSON

cdef inline void _blank(In* source) noexcept nogil:
    cdef uint8_t byte
    while source.at < source.size:
        byte = source.data[source.at]
        if byte != 32 and byte != 10 and byte != 13 and byte != 9:
            return
        source.at += 1


cdef inline bint _take(In* source, uint8_t byte) noexcept nogil:
    """Past this byte and the blanks before it, if it is the next one."""
    _blank(source)
    if source.at < source.size and source.data[source.at] == byte:
        source.at += 1
        return True
    return False


cdef int _hex4(const uint8_t* at) noexcept nogil:
    cdef int i, value = 0
    cdef uint8_t byte
    for i in range(4):
        byte = at[i]
        if 48 <= byte <= 57:
            value = value << 4 | (byte - 48)
        elif 97 <= (byte | 32) <= 102:
            value = value << 4 | ((byte | 32) - 87)
        else:
            return -1
    return value


cdef inline bint _special(uint64_t word) noexcept nogil:
    """Is one of these eight bytes a control character, a quote or a backslash?"""
    cdef uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u
    cdef uint64_t quote = word ^ (ones * 34), slash = word ^ (ones * 92)
    return (((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((word - ones * 32) & ~word)) & high != 0


cdef bint _string(In* source, Text* text, Out* scratch):
    """A JSON string. Without escapes it stays where it is; with some it goes to ``scratch``, which then holds just it.

    The bytes are not yet known to be UTF-8.
    """
    cdef size_t at, start
    cdef uint64_t word
    cdef uint8_t byte
    if not _take(source, 34):
        return False
    start = at = source.at
    while True:
        if source.size - at >= 8:
            memcpy(&word, source.data + at, 8)
            if not _special(word):
                at += 8
                continue
        if at >= source.size:
            return False
        byte = source.data[at]
        if byte == 34:
            break
        if byte == 92:
            return _escaped(source, text, scratch, start, at)
        if byte < 32:
            return False
        at += 1
    text.data = source.data + start
    text.size = at - start
    text.binary = False
    source.at = at + 1
    return True


cdef bint _escaped(In* source, Text* text, Out* scratch, size_t start, size_t at):
    """The rest of a string in which the first backslash is at ``at``."""
    cdef size_t from_
    cdef uint8_t byte
    cdef int code, low
    if scratch.data is NULL:
        out_init(scratch, source.size + ROOM)       # no string is longer than it was written: so this never moves,
        if scratch.failed:                          # and what was handed out before stays where it is
            return False
    from_ = scratch.size
    put(scratch, source.data + start, at - start)
    while at < source.size:
        byte = source.data[at]
        if byte == 34:
            text.data = scratch.data + from_
            text.size = scratch.size - from_
            text.binary = False
            source.at = at + 1
            return True
        if byte < 32:
            return False
        at += 1
        if byte != 92:
            put_byte(scratch, byte)
            continue
        if at >= source.size:
            return False
        byte = source.data[at]
        at += 1
        if byte == 34 or byte == 92 or byte == 47:
            put_byte(scratch, byte)
        elif byte == 98:
            put_byte(scratch, 8)
        elif byte == 102:
            put_byte(scratch, 12)
        elif byte == 110:
            put_byte(scratch, 10)
        elif byte == 114:
            put_byte(scratch, 13)
        elif byte == 116:
            put_byte(scratch, 9)
        elif byte == 117:
            if source.size - at < 4:
                return False
            code = _hex4(source.data + at)
            at += 4
            if 0xD800 <= code <= 0xDBFF:
                if source.size - at < 6 or source.data[at] != 92 or source.data[at + 1] != 117:
                    return False
                low = _hex4(source.data + at + 2)
                if not 0xDC00 <= low <= 0xDFFF:
                    return False
                at += 6
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
            elif code < 0 or 0xDC00 <= code <= 0xDFFF:
                return False
            _put_utf8(scratch, <uint32_t>code)
        else:
            return False
    return False


cdef void _put_utf8(Out* out, uint32_t code):
    if code < 0x80:
        put_byte(out, <uint8_t>code)
    elif code < 0x800:
        put_byte(out, <uint8_t>(0xC0 | code >> 6))
        put_byte(out, <uint8_t>(0x80 | code & 63))
    elif code < 0x10000:
        put_byte(out, <uint8_t>(0xE0 | code >> 12))
        put_byte(out, <uint8_t>(0x80 | code >> 6 & 63))
        put_byte(out, <uint8_t>(0x80 | code & 63))
    else:
        put_byte(out, <uint8_t>(0xF0 | code >> 18))
        put_byte(out, <uint8_t>(0x80 | code >> 12 & 63))
        put_byte(out, <uint8_t>(0x80 | code >> 6 & 63))
        put_byte(out, <uint8_t>(0x80 | code & 63))


cdef bint _number(In* source, uint64_t* value) noexcept nogil:
    """A whole number without sign, fraction or exponent, below 2^63."""
    cdef size_t start
    cdef uint64_t total = 0
    _blank(source)
    start = source.at
    while source.at < source.size and 48 <= source.data[source.at] <= 57:
        if source.at - start == 18:
            return False
        total = total * 10 + (source.data[source.at] - 48)
        source.at += 1
    if source.at == start or (source.data[start] == 48 and source.at - start > 1):
        return False
    value[0] = total
    return source.at >= source.size or source.data[source.at] not in (46, 69, 101)


cdef bint _null(In* source) noexcept nogil:
    _blank(source)
    if source.size - source.at >= 4 and memcmp(source.data + source.at, b"null", 4) == 0:
        source.at += 4
        return True
    return False


cdef bint _json_message(In* source, _Builder builder) except -1:
    cdef Members members
    cdef Text key, dropped
    cdef uint64_t number
    cdef int i, member
    cdef bint first = True
    for i in range(KEPT):
        members.text[i].data = NULL
        members.text[i].size = 0
        members.text[i].binary = False
    members.seen = 0
    if not _take(source, 123):
        return False
    while not _take(source, 125):
        if not first and not _take(source, 44):
            return False
        first = False
        if not _string(source, &key, &builder.scratch) or not _take(source, 58):
            return False
        member = _member(key.data, key.size)
        if member == OTHER:
            return False
        if member != DROPPED:
            if members.seen >> member & 1:
                return False
            members.seen |= <uint32_t>1 << member
        if _null(source):
            continue
        if member == DROPPED:
            if not _number(source, &number) and not _string(source, &dropped, &builder.scratch):
                return False
            continue
        if member == ACTION:
            if not _number(source, &number) or number != 0:
                return False
            continue
        if not _string(source, &members.text[member], &builder.scratch):
            return False
        if not is_utf8(members.text[member].data, members.text[member].size):
            return False
    if members.text[ENCODING].size >= 6 and memcmp(
            members.text[ENCODING].data + members.text[ENCODING].size - 6, b"base64", 6) == 0:
        return False
    return builder.add(&members)


cdef Publish _parse_json(In* source, _Builder builder):
    cdef Text key, channel, dropped
    cdef uint64_t number, msg_serial = 0
    cdef uint32_t seen = 0
    cdef int member
    cdef bint first = True
    if not _take(source, 123):
        return None
    while not _take(source, 125):
        if not first and not _take(source, 44):
            return None
        first = False
        if not _string(source, &key, &builder.scratch) or not _take(source, 58):
            return None
        member = _top(key.data, key.size)
        if member == P_OTHER or (member != P_DROPPED and seen >> member & 1):
            return None
        seen |= <uint32_t>1 << member
        if member == P_ACTION:
            if not _number(source, &number) or number != MESSAGE:
                return None
        elif member == P_CHANNEL:
            if not _string(source, &channel, &builder.scratch) or not is_utf8(channel.data, channel.size):
                return None
        elif member == P_MSG_SERIAL:
            if not _number(source, &msg_serial):
                return None
        elif member == P_DROPPED:
            if not _null(source) and not _number(source, &number) and not _string(source, &dropped, &builder.scratch):
                return None
        else:
            if not _take(source, 91):
                return None
            while True:
                if not _json_message(source, builder):
                    return None
                if not _take(source, 44):
                    break
            if not _take(source, 93):
                return None
    _blank(source)
    if source.at != source.size or seen & 15 != 15 or channel.size == 0:
        return None
    return builder.finish(&channel, msg_serial)


# msgpack

cdef bint _msgpack_message(In* source, _Builder builder) except -1:
    cdef Members members
    cdef Item item
    cdef size_t left
    cdef int i, member
    for i in range(KEPT):
        members.text[i].data = NULL
        members.text[i].size = 0
        members.text[i].binary = False
    members.seen = 0
    if read_item(source, &item) != I_MAP:
        return False
    left = item.size
    while left:
        left -= 1
        if read_item(source, &item) != I_STR:
            return False
        member = _member(item.data, item.size)
        if member == OTHER:
            return False
        if member != DROPPED:
            if members.seen >> member & 1:
                return False
            members.seen |= <uint32_t>1 << member
        read_item(source, &item)
        if item.kind == I_NIL:
            continue
        if member == DROPPED:
            if item.kind != I_UINT and item.kind != I_STR:
                return False
        elif member == ACTION:
            if item.kind != I_UINT or item.number != 0:
                return False
        elif item.kind == I_STR:
            if not is_utf8(item.data, item.size):
                return False
            members.text[member].data = item.data
            members.text[member].size = item.size
        elif item.kind == I_BIN and member == DATA:
            members.text[member].data = item.data
            members.text[member].size = item.size
            members.text[member].binary = True
        else:
            return False
    return builder.add(&members)


cdef Publish _parse_msgpack(In* source, _Builder builder):
    cdef Item item
    cdef Text channel
    cdef size_t left, i, count
    cdef uint64_t msg_serial = 0
    cdef uint32_t seen = 0
    cdef int member
    if read_item(source, &item) != I_MAP:
        return None
    left = item.size
    while left:
        left -= 1
        if read_item(source, &item) != I_STR:
            return None
        member = _top(item.data, item.size)
        if member == P_OTHER or (member != P_DROPPED and seen >> member & 1):
            return None
        seen |= <uint32_t>1 << member
        read_item(source, &item)
        if member == P_ACTION:
            if item.kind != I_UINT or item.number != MESSAGE:
                return None
        elif member == P_CHANNEL:
            if item.kind != I_STR or not is_utf8(item.data, item.size):
                return None
            channel.data = item.data
            channel.size = item.size
        elif member == P_MSG_SERIAL:
            if item.kind != I_UINT or item.number >> 63:
                return None
            msg_serial = item.number
        elif member == P_DROPPED:
            if item.kind != I_NIL and item.kind != I_UINT and item.kind != I_STR:
                return None
        else:
            if item.kind != I_ARRAY:
                return None
            count = item.size
            for i in range(count):
                if not _msgpack_message(source, builder):
                    return None
    if source.at != source.size or seen & 15 != 15 or channel.size == 0:
        return None
    return builder.finish(&channel, msg_serial)


def parse_publish(bytes payload not None, int format):
    """The publish that these bytes are, or None: it takes the cold path."""
    cdef In source
    cdef _Builder builder
    source.data = <const uint8_t*><const char*>payload
    source.size = <size_t>len(payload)
    source.at = 0
    builder = _Builder.__new__(_Builder)
    out_init(&builder.out, source.size + ROOM)
    if builder.out.failed:
        return None
    put_byte(&builder.out, 0x91)                    # an array of one; replaced when there are more
    return _parse_json(&source, builder) if format == 0 else _parse_msgpack(&source, builder)
