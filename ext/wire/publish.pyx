# cython: language_level=3, auto_pickle=False, autotestdict=False
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
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from ext.text.json_input cimport skip_blank, take, take_null, take_string, take_whole
from ext.text.msgpack_input cimport I_ARRAY, I_BIN, I_MAP, I_NIL, I_STR, I_UINT, In, Item, read_item
from ext.text.output cimport Out, bytes_of, out_init, put, put_array_header, put_bin_header, put_byte, put_map_header, put_str
from ext.wire.record cimport CLIENT_ID, DATA, ENCODING, ID, MOST_MESSAGES, NAME
from ext.text.utf8 cimport Text, is_utf8

cdef enum:
    MESSAGE = 15
    ROOM = 64                   # of the output, beyond what came in: it is hardly ever longer than that
    KEPT_ROOM = 256 * 1024      # buffers up to this are kept from one publish to the next
    UNCOUNTED_BYTES = 1024      # of id and of encoding: with more the cold path refuses them

    # members of a message: behind those that a record keeps, what must be 0; what is dropped; what is not for this room
    ACTION = 5
    DROPPED = 6                 # size: ably-js counts it for itself
    DROPPED_TIMESTAMP = 7
    DROPPED_CONNECTION_ID = 8
    OTHER = 9

    # members of the protocol message, in the same manner
    P_ACTION = 0
    P_CHANNEL = 1
    P_MSG_SERIAL = 2
    P_MESSAGES = 3
    P_NEEDED = 15               # all of the four, by their bits
    P_DROPPED = 4               # id
    P_DROPPED_TIMESTAMP = 5
    P_DROPPED_CONNECTION_ID = 6
    P_DROPPED_CONNECTION_KEY = 7
    P_DROPPED_CHANNEL_SERIAL = 8
    P_DROPPED_COUNT = 9
    P_DROPPED_FLAGS = 10
    P_OTHER = 11


@cython.final
@cython.freelist(64)
cdef class Publish:
    """One inbound publish: its form is right; what its sender may do is not looked at.

    ``messages`` is the msgpack array for a record; ``size`` is what counts against maxMessageSize; ``ids`` and
    ``client_ids`` are those that the messages name (None: none does). ``params``, ``ephemeral`` and ``privileged`` come
    from the cold path only.
    """

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


@cython.final
cdef class Parser:
    """Reads one publish after the other. What it has found, strings of its own included, lasts until the next one."""

    def __dealloc__(self):
        PyMem_Free(self.out.data)
        PyMem_Free(self.scratch.data)

    cdef bint add(self, Members* members) except -1:
        """One message; False: it is not plain."""
        cdef uint32_t present = 0
        cdef int i
        cdef Text* text = members.text
        for i in range(KEPT):
            present += text[i].data is not NULL
        put_map_header(&self.out, present)
        if not self._add_names(text) or self.count == MOST_MESSAGES or text[ENCODING].size > UNCOUNTED_BYTES:
            return False
        if text[NAME].data is not NULL:
            put(&self.out, b"\xa4name", 5)
            put_str(&self.out, text[NAME].data, text[NAME].size)
        if text[DATA].data is not NULL:
            put(&self.out, b"\xa4data", 5)
            if members.binary:
                put_bin_header(&self.out, text[DATA].size)
                put(&self.out, text[DATA].data, text[DATA].size)
            else:
                put_str(&self.out, text[DATA].data, text[DATA].size)
        if text[ENCODING].data is not NULL:
            put(&self.out, b"\xa8encoding", 9)
            put_str(&self.out, text[ENCODING].data, text[ENCODING].size)
        self.size += text[NAME].size + text[CLIENT_ID].size + text[DATA].size
        self.count += 1
        return True

    cdef bint _add_names(self, Text* text) except -1:
        """Its id and clientId, which are also wanted as objects. Neither may be empty."""
        if text[ID].data is not NULL:
            if text[ID].size == 0 or text[ID].size > UNCOUNTED_BYTES:
                return False
            put(&self.out, b"\xa2id", 3)
            put_str(&self.out, text[ID].data, text[ID].size)
            if self.ids is None:
                self.ids = []
            if <uint32_t>len(self.ids) != self.count:
                return False                        # one before it has none
            self.ids.append(_decode(&text[ID]))
        if text[CLIENT_ID].data is not NULL:
            if text[CLIENT_ID].size == 0:
                return False
            put(&self.out, b"\xa8clientId", 9)
            put_str(&self.out, text[CLIENT_ID].data, text[CLIENT_ID].size)
            if self.client_ids is None:
                self.client_ids = [None] * <Py_ssize_t>self.count
            self.client_ids.append(_decode(&text[CLIENT_ID]))
        elif self.client_ids is not None:
            self.client_ids.append(None)
        return True

    cdef bint parse(self, const uint8_t* data, size_t size, bint msgpack) except -1:
        """Is it a plain publish? Then its parts are here; strings without escapes point into ``data``."""
        cdef In source
        self._begin(&source, data, size)
        if not (_parse_msgpack(&source, self) if msgpack else _parse_json(&source, self)):
            return False
        return self.seen & P_NEEDED == P_NEEDED and self.channel.size > 0 and self._complete()

    cdef bint parse_messages(self, const uint8_t* data, size_t size, bint msgpack) except -1:
        """The same for a message, or an array of them, by themselves: they name no channel, and no msgSerial."""
        cdef In source
        self._begin(&source, data, size)
        if not (_msgpack_body(&source, self) if msgpack else _json_body(&source, self)):
            return False
        return self._complete()

    cdef int _begin(self, In* source, const uint8_t* data, size_t size) except -1:
        source.data = data
        source.size = size
        source.at = 0
        self.channel.size = 0
        self.msg_serial = 0
        self.seen = self.count = 0
        self.size = 0
        self.ids = self.client_ids = None
        if self.out.room > KEPT_ROOM:               # one large publish is no reason to hold so much for ever
            PyMem_Free(self.out.data)
            self.out.data = NULL
        if self.scratch.room > KEPT_ROOM or self.scratch.room < size:       # it must never have to move
            PyMem_Free(self.scratch.data)
            self.scratch.data = NULL
            self.scratch.room = 0
        self.out.size = self.scratch.size = 0
        self.out.failed = self.scratch.failed = False
        if self.out.data is NULL:
            out_init(&self.out, size + ROOM)
        put_byte(&self.out, 0x91)                   # an array of one, as most are
        return 0

    cdef bint _complete(self) except -1:
        """All has been read: is there a message in it, and do their ids fit together?"""
        if self.out.failed or self.scratch.failed:
            raise MemoryError("no memory for a publish")
        return self.count > 0 and (self.ids is None or self._ids_fit())

    cdef Publish publish(self):
        """What has been parsed, as an object."""
        cdef Publish publish
        publish = Publish.__new__(Publish)
        publish.channel = _decode(&self.channel)
        publish.msg_serial = self.msg_serial
        publish.count = self.count
        publish.size = self.size
        publish.ids = tuple(self.ids) if self.ids is not None else None
        publish.client_ids = tuple(self.client_ids) if self.client_ids is not None else None
        publish.messages = self._messages()
        return publish

    cdef bint _ids_fit(self) except -1:
        """Every message has one, and several are <base>:<index> all."""
        cdef uint32_t index
        cdef str base
        if <uint32_t>len(self.ids) != self.count:
            return False
        if self.count == 1:
            return True
        base = self.ids[0]
        if not base.endswith(":0"):
            return False
        base = base[:-1]
        for index in range(1, self.count):
            if self.ids[index] != f"{base}{index}":
                return False
        return True

    cdef bytes _messages(self):
        cdef Out whole
        if self.count == 1:
            return PyBytes_FromStringAndSize(<char*>self.out.data, <Py_ssize_t>self.out.size)
        out_init(&whole, self.out.size + ROOM)
        try:
            put_array_header(&whole, self.count)
            put(&whole, self.out.data + 1, self.out.size - 1)
            return bytes_of(&whole, "a publish")
        finally:
            PyMem_Free(whole.data)


cdef str _decode(Text* text):
    return PyUnicode_DecodeUTF8(<const char*>text.data, <Py_ssize_t>text.size, NULL)


cdef int _member(const uint8_t* key, size_t size) noexcept nogil:
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


cdef int _protocol_member(const uint8_t* key, size_t size) noexcept nogil:
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


cdef inline bint _first_time(uint32_t* seen, int member, int other) noexcept nogil:
    """Known, and not twice in one map: decoders differ in which of two they take."""
    if member == other or seen[0] >> member & 1:
        return False
    seen[0] |= <uint32_t>1 << member
    return True


# JSON

cdef inline bint _text(In* source, Text* text, Out* scratch) noexcept:
    return take_string(source, text, scratch, False) and is_utf8(text.data, text.size)


cdef bint _drop(In* source, Out* scratch) noexcept:
    cdef Text text
    cdef uint64_t number
    return take_null(source) or take_whole(source, &number) or _text(source, &text, scratch)


cdef bint _ends_in_base64(Text* encoding) noexcept nogil:
    return encoding.size >= 6 and memcmp(encoding.data + encoding.size - 6, b"base64", 6) == 0


cdef bint _json_message(In* source, Parser builder) except -1:
    cdef Members members
    cdef Text key
    cdef uint64_t number
    cdef int member
    memset(&members, 0, sizeof(Members))
    if not take(source, 123):
        return False
    while not take(source, 125):
        if members.seen and not take(source, 44):
            return False
        if not take_string(source, &key, &builder.scratch, False) or not take(source, 58):
            return False
        member = _member(key.data, key.size)
        if not _first_time(&members.seen, member, OTHER):
            return False
        if member >= DROPPED:
            if not _drop(source, &builder.scratch):
                return False
        elif take_null(source):
            continue
        elif member == ACTION:
            if not take_whole(source, &number) or number != 0:
                return False
        elif not _text(source, &members.text[member], &builder.scratch):
            return False
    if _ends_in_base64(&members.text[ENCODING]):
        return False
    return builder.add(&members)


cdef bint _json_messages(In* source, Parser builder) except -1:
    if not take(source, 91):
        return False
    while True:
        if not _json_message(source, builder):
            return False
        if not take(source, 44):
            return take(source, 93)


cdef bint _json_body(In* source, Parser builder) except -1:
    """One message, or an array of them, and nothing behind."""
    skip_blank(source)
    if source.at < source.size and source.data[source.at] == 91:
        if not _json_messages(source, builder):
            return False
    elif not _json_message(source, builder):
        return False
    skip_blank(source)
    return source.at == source.size


cdef bint _parse_json(In* source, Parser builder) except -1:
    cdef Text key
    cdef uint64_t number
    cdef int member
    if not take(source, 123):
        return False
    while not take(source, 125):
        if builder.seen and not take(source, 44):
            return False
        if not take_string(source, &key, &builder.scratch, False) or not take(source, 58):
            return False
        member = _protocol_member(key.data, key.size)
        if not _first_time(&builder.seen, member, P_OTHER):
            return False
        if member == P_ACTION:
            if not take_whole(source, &number) or number != MESSAGE:
                return False
        elif member == P_CHANNEL:
            if not _text(source, &builder.channel, &builder.scratch):
                return False
        elif member == P_MSG_SERIAL:
            if not take_whole(source, &builder.msg_serial):
                return False
        elif member == P_MESSAGES:
            if not _json_messages(source, builder):
                return False
        elif not _drop(source, &builder.scratch):
            return False
    skip_blank(source)
    return source.at == source.size


# msgpack

cdef bint _droppable(Item* item) noexcept nogil:
    return item.kind == I_NIL or item.kind == I_UINT or item.kind == I_STR


cdef bint _msgpack_message(In* source, Parser builder) except -1:
    cdef Members members
    cdef Item item
    cdef size_t left
    cdef int member
    memset(&members, 0, sizeof(Members))
    if read_item(source, &item) != I_MAP:
        return False
    left = item.size
    while left:
        left -= 1
        if read_item(source, &item) != I_STR:
            return False
        member = _member(item.data, item.size)
        if not _first_time(&members.seen, member, OTHER):
            return False
        read_item(source, &item)
        if member >= DROPPED:
            if not _droppable(&item):
                return False
        elif item.kind == I_NIL:
            continue
        elif member == ACTION:
            if item.kind != I_UINT or item.number != 0:
                return False
        elif (item.kind == I_STR and is_utf8(item.data, item.size)) or (item.kind == I_BIN and member == DATA):
            members.text[member].data = item.data
            members.text[member].size = item.size
            if member == DATA:
                members.binary = item.kind == I_BIN
        else:
            return False
    return builder.add(&members)


cdef bint _msgpack_body(In* source, Parser builder) except -1:
    """As for JSON."""
    cdef Item item
    cdef size_t messages
    if source.size == 0:
        return False
    if 0x90 <= source.data[0] < 0xa0 or 0xdc <= source.data[0] <= 0xdd:
        if read_item(source, &item) != I_ARRAY:
            return False
        messages = item.size
        while messages:
            messages -= 1
            if not _msgpack_message(source, builder):
                return False
    elif not _msgpack_message(source, builder):
        return False
    return source.at == source.size


cdef bint _parse_msgpack(In* source, Parser builder) except -1:
    cdef Item item
    cdef size_t left, messages
    cdef int member
    if read_item(source, &item) != I_MAP:
        return False
    left = item.size
    while left:
        left -= 1
        if read_item(source, &item) != I_STR:
            return False
        member = _protocol_member(item.data, item.size)
        if not _first_time(&builder.seen, member, P_OTHER):
            return False
        read_item(source, &item)
        if member == P_ACTION:
            if item.kind != I_UINT or item.number != MESSAGE:
                return False
        elif member == P_CHANNEL:
            if item.kind != I_STR or not is_utf8(item.data, item.size):
                return False
            builder.channel.data = item.data
            builder.channel.size = item.size
        elif member == P_MSG_SERIAL:
            if item.kind != I_UINT or item.number >> 63:
                return False
            builder.msg_serial = item.number
        elif member == P_MESSAGES:
            if item.kind != I_ARRAY:
                return False
            messages = item.size
            while messages:
                messages -= 1
                if not _msgpack_message(source, builder):
                    return False
        elif not _droppable(&item):
            return False
    return source.at == source.size


def parse_publish(bytes payload not None, int format):
    """The publish that these bytes are, or None: it takes the cold path."""
    cdef Parser parser = Parser.__new__(Parser)
    if not parser.parse(<const uint8_t*><const char*>payload, <size_t>len(payload), format == 1):
        return None
    return parser.publish()


def parse_messages(bytes body not None, int format):
    """The publish that a message, or an array of them, is by itself (its channel is empty); or None, as above."""
    cdef Parser parser = Parser.__new__(Parser)
    if not parser.parse_messages(<const uint8_t*><const char*>body, <size_t>len(body), format == 1):
        return None
    return parser.publish()
