# cython: language_level=3
"""What a delivery and an acknowledgement look like on the wire, made from records, without an object per field.

    record = msgpack [id, connectionId | nil, clientId | nil, flags, [message, ...]]
    message = map of "id", "clientId", "name", "data", "encoding", "extras": only those present, in this order

A record holds text as UTF-8 and binary as it is, whatever the format it came in, so one record serves every reader:

    {"action":15,"channel":c,"channelSerial":s,"id":i,"connectionId":n,"timestamp":t,"messages":[
        {"id":..,"clientId":..,"name":..,"data":..,"encoding":..,"extras":..,"action":0,"serial":"s:000"}]}

``version`` is left out: libraries make it from serial and timestamp. Records are read as strictly as input is: one that
is malformed raises ValueError, and nothing is read beyond its end."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

from ext.frame cimport write_header
from ext.msgpack_input cimport (I_ARRAY, I_BIN, I_BOOL, I_FLOAT, I_MAP, I_NEGATIVE, I_NIL, I_STR, I_UINT, In, Item,
                                read_item, skip_item)
from ext.output cimport (Out, out_init, put, put_array_header, put_base64, put_bin_header, put_byte, put_decimal,
                         put_json_text, put_map_header, put_str, put_str_header, put_uint, reserve)
from ext.serial cimport SERIAL_LENGTH, SERIAL_TEXT_LENGTH, SERIES_LENGTH, write_serial
from ext.utf8 cimport is_utf8

from ext.serial import connection_origin

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

JSON, MSGPACK = 0, 1
EPHEMERAL = 1           # flag of a record: it was delivered live only

cdef enum:
    MOST_MESSAGES = 1000    # of one entry: an index has three digits
    DEEPEST = 64            # nesting of extras; bounds the recursion below
    INDEX_LENGTH = 4        # ":" and three digits
    ROOM = 512              # of the first buffer: most frames fit

    ID = 0
    CLIENT_ID = 1
    NAME = 2
    DATA = 3
    ENCODING = 4
    EXTRAS = 5
    FIELDS = 6

cdef struct Text:
    const uint8_t* data     # NULL: it is absent
    size_t size

cdef struct Head:
    Text id
    Text connection_id
    Text client_id
    uint64_t flags
    uint32_t count          # of messages, which follow in the source

cdef struct Fields:
    Text text[5]            # by ID .. ENCODING
    bint binary             # DATA is bytes
    In extras               # data NULL: none


cdef int _malformed() except -1:
    raise ValueError("the record is malformed")


cdef int _optional_str(In* source, Text* text) except -1:
    cdef Item item
    read_item(source, &item)
    if item.kind == I_NIL:
        text.data = NULL
        text.size = 0
    elif item.kind == I_STR:
        text.data = item.data
        text.size = item.size
    else:
        _malformed()
    return 0


cdef int _read_head(In* source, Head* head) except -1:
    cdef Item item
    if read_item(source, &item) != I_ARRAY or item.size != 5:
        _malformed()
    _optional_str(source, &head.id)
    if head.id.data is NULL:
        _malformed()
    _optional_str(source, &head.connection_id)
    _optional_str(source, &head.client_id)
    if read_item(source, &item) != I_UINT:
        _malformed()
    head.flags = item.number
    if read_item(source, &item) != I_ARRAY or not 0 < item.size <= MOST_MESSAGES:
        _malformed()
    head.count = <uint32_t>item.size
    return 0


cdef int _field(const uint8_t* key, size_t size) noexcept nogil:
    if size == 2:
        return ID if memcmp(key, b"id", 2) == 0 else -1
    if size == 4:
        if memcmp(key, b"data", 4) == 0:
            return DATA
        return NAME if memcmp(key, b"name", 4) == 0 else -1
    if size == 6:
        return EXTRAS if memcmp(key, b"extras", 6) == 0 else -1
    if size == 8:
        if memcmp(key, b"encoding", 8) == 0:
            return ENCODING
        return CLIENT_ID if memcmp(key, b"clientId", 8) == 0 else -1
    return -1


cdef int _read_message(In* source, Fields* fields) except -1:
    cdef Item item
    cdef size_t left, start
    cdef int field, last = -1
    for field in range(5):
        fields.text[field].data = NULL
        fields.text[field].size = 0
    fields.binary = False
    fields.extras.data = NULL
    if read_item(source, &item) != I_MAP or item.size > FIELDS:
        _malformed()
    left = item.size
    while left:
        left -= 1
        if read_item(source, &item) != I_STR:
            _malformed()
        field = _field(item.data, item.size)
        if field <= last:                       # unknown, repeated, or out of order
            _malformed()
        last = field
        if field == EXTRAS:
            start = source.at
            if not skip_item(source):
                _malformed()
            fields.extras.data = source.data + start
            fields.extras.size = source.at - start
            fields.extras.at = 0
            continue
        read_item(source, &item)
        if item.kind == I_BIN and field == DATA:
            fields.binary = True
        elif item.kind != I_STR:
            _malformed()
        fields.text[field].data = item.data
        fields.text[field].size = item.size
    return 0


cdef int _put_json_value(Out* out, In* source, int depth) except -1:
    """Any msgpack value as JSON (extras). Binary becomes base64; numbers that JSON has no way to say become null."""
    cdef Item item
    cdef size_t i
    cdef bytes text
    if depth > DEEPEST:
        raise ValueError(f"extras are nested deeper than {<int>DEEPEST}")
    read_item(source, &item)
    if item.kind == I_NIL:
        put(out, b"null", 4)
    elif item.kind == I_BOOL:
        if item.number:
            put(out, b"true", 4)
        else:
            put(out, b"false", 5)
    elif item.kind == I_UINT:
        put_decimal(out, item.number)
    elif item.kind == I_NEGATIVE:
        put_byte(out, 45)
        put_decimal(out, 0 - item.number)
    elif item.kind == I_FLOAT:
        if item.real != item.real or item.real - item.real != 0:
            put(out, b"null", 4)
        else:
            text = repr(item.real).encode()
            put(out, <const char*>text, <size_t>len(text))
    elif item.kind == I_STR:
        if is_utf8(item.data, item.size):
            put_json_text(out, item.data, item.size)
        else:
            put_base64(out, item.data, item.size)
    elif item.kind == I_BIN:
        put_base64(out, item.data, item.size)
    elif item.kind == I_ARRAY:
        put_byte(out, 91)
        for i in range(item.size):
            if i:
                put_byte(out, 44)
            _put_json_value(out, source, depth + 1)
        put_byte(out, 93)
    elif item.kind == I_MAP:
        _put_json_map(out, source, item.size, depth)
    else:
        _malformed()
    return 0


cdef int _put_json_map(Out* out, In* source, size_t pairs, int depth) except -1:
    cdef Item item
    cdef size_t i
    put_byte(out, 123)
    for i in range(pairs):
        if i:
            put_byte(out, 44)
        if read_item(source, &item) != I_STR or not is_utf8(item.data, item.size):
            _malformed()
        put_json_text(out, item.data, item.size)
        put_byte(out, 58)
        _put_json_value(out, source, depth + 1)
    put_byte(out, 125)
    return 0


cdef int _literal(Out* out, const char* text) except -1:
    cdef size_t size = 0
    while text[size]:
        size += 1
    put(out, text, size)
    return 0


cdef void _put_index(uint8_t* to, uint32_t index) noexcept nogil:
    to[0] = 58
    to[1] = <uint8_t>(48 + index // 100)
    to[2] = <uint8_t>(48 + index // 10 % 10)
    to[3] = <uint8_t>(48 + index % 10)


cdef void _write_position(uint8_t* to, uint64_t serial, const uint8_t* series) noexcept nogil:
    write_serial(<char*>to, serial)
    to[SERIAL_LENGTH] = 64
    memcpy(to + SERIAL_LENGTH + 1, series, SERIES_LENGTH)


cdef const uint8_t* _series_of(str series) except NULL:
    cdef Py_ssize_t size
    cdef const char* text = PyUnicode_AsUTF8AndSize(series, &size)
    if size != SERIES_LENGTH:
        raise ValueError(f"a series has {<int>SERIES_LENGTH} characters, got {series!r}")
    return <const uint8_t*>text


cdef bytes _taken(Out* out):
    if out.failed:
        raise MemoryError("no memory for a frame")
    return PyBytes_FromStringAndSize(<char*>out.data, <Py_ssize_t>out.size)


@cython.final
cdef class EntryEncoder:
    """Makes the frames of one channel in one format; ``channel`` is its name as the client wrote it."""

    cdef readonly int format
    cdef bytes _prefix          # of the payload, up to where the channelSerial begins

    def __cinit__(self, int format, str channel not None):
        cdef Out out
        cdef Py_ssize_t size
        cdef const char* text = PyUnicode_AsUTF8AndSize(channel, &size)
        if format not in (0, 1):
            raise ValueError(f"format must be JSON (0) or MSGPACK (1), got {format}")
        self.format = format
        out_init(&out, ROOM)
        try:
            if format == 0:
                _literal(&out, b'{"action":15,"channel":')
                put_json_text(&out, <const uint8_t*>text, <size_t>size)
                _literal(&out, b',"channelSerial":"')
            else:
                _literal(&out, b"\xa6action\x0f\xa7channel")
                put_str(&out, text, <size_t>size)
                _literal(&out, b"\xadchannelSerial\xbe")       # a str of 30 bytes follows
            self._prefix = _taken(&out)
        finally:
            PyMem_Free(out.data)

    def payload(self, uint64_t serial, str series not None, bytes record not None):
        """The MESSAGE protocol message of an entry. Raises: ValueError, if the record is malformed."""
        cdef Out out
        out_init(&out, ROOM + <size_t>len(record))
        try:
            self._write(&out, serial, _series_of(series), record)
            return _taken(&out)
        finally:
            PyMem_Free(out.data)

    def frame(self, uint64_t serial, str series not None, bytes record not None):
        """The same as one WebSocket frame: text for JSON, binary for msgpack."""
        cdef Out out
        out_init(&out, ROOM + <size_t>len(record))
        try:
            self._write_frame(&out, serial, _series_of(series), record)
            return _taken(&out)
        finally:
            PyMem_Free(out.data)

    def frames(self, list entries not None):
        """Frames of ``(serial, series, record)`` one behind the other, for a reader who catches up."""
        cdef Out out
        cdef tuple entry
        out_init(&out, ROOM * (1 + <size_t>len(entries)))
        try:
            for entry in entries:
                self._write_frame(&out, entry[0], _series_of(entry[1]), entry[2])
            return _taken(&out)
        finally:
            PyMem_Free(out.data)

    cdef int _write_frame(self, Out* out, uint64_t serial, const uint8_t* series, bytes record) except -1:
        """Leave room for the longest header, and close up what it does not need."""
        cdef size_t start = out.size, size
        cdef uint8_t header[10]
        cdef int used
        if not reserve(out, 10):
            raise MemoryError("no memory for a frame")
        out.size += 10
        self._write(out, serial, series, record)
        if out.failed:
            raise MemoryError("no memory for a frame")
        size = out.size - start - 10
        used = write_header(header, 1 if self.format == 0 else 2, size)
        memmove(out.data + start + used, out.data + start + 10, size)
        memcpy(out.data + start, header, <size_t>used)
        out.size = start + <size_t>used + size
        return 0

    cdef int _write(self, Out* out, uint64_t serial, const uint8_t* series, bytes record) except -1:
        cdef In source
        cdef Head head
        cdef Fields fields
        cdef uint32_t index
        cdef uint8_t name[SERIAL_TEXT_LENGTH + INDEX_LENGTH]
        source.data = <const uint8_t*><const char*>record
        source.size = <size_t>len(record)
        source.at = 0
        _read_head(&source, &head)
        _write_position(name, serial, series)
        if self.format == 0:
            self._json_head(out, serial, name, &head)
        else:
            self._msgpack_head(out, serial, name, &head)
        for index in range(head.count):
            _read_message(&source, &fields)
            if fields.text[CLIENT_ID].data is NULL:
                fields.text[CLIENT_ID] = head.client_id
            _put_index(name + SERIAL_TEXT_LENGTH, index)
            if self.format == 0:
                if index:
                    put_byte(out, 44)
                self._json_message(out, &fields, &head, name, index)
            else:
                self._msgpack_message(out, &fields, &head, name, index)
        if source.at != source.size:
            _malformed()
        if self.format == 0:
            put(out, b"]}", 2)
        return 0

    cdef int _json_head(self, Out* out, uint64_t serial, const uint8_t* position, Head* head) except -1:
        put(out, <const char*>self._prefix, <size_t>len(self._prefix))
        put(out, position, SERIAL_TEXT_LENGTH)
        _literal(out, b'","id":')
        put_json_text(out, head.id.data, head.id.size)
        if head.connection_id.data is not NULL:
            _literal(out, b',"connectionId":')
            put_json_text(out, head.connection_id.data, head.connection_id.size)
        _literal(out, b',"timestamp":')
        put_decimal(out, serial >> 16)
        _literal(out, b',"messages":[')
        return 0

    cdef int _json_message(self, Out* out, Fields* fields, Head* head, const uint8_t* name, uint32_t index) except -1:
        cdef Text* text = fields.text
        _literal(out, b'{"id":')
        if text[ID].data is not NULL:
            put_json_text(out, text[ID].data, text[ID].size)
        else:
            put_json_text(out, head.id.data, head.id.size)
            out.size -= 1                           # its closing quote
            put_byte(out, 58)
            put_decimal(out, index)
            put_byte(out, 34)
        if text[CLIENT_ID].data is not NULL:
            _literal(out, b',"clientId":')
            put_json_text(out, text[CLIENT_ID].data, text[CLIENT_ID].size)
        if text[NAME].data is not NULL:
            _literal(out, b',"name":')
            put_json_text(out, text[NAME].data, text[NAME].size)
        if text[DATA].data is not NULL:
            _literal(out, b',"data":')
            if fields.binary:
                put_base64(out, text[DATA].data, text[DATA].size)
            else:
                put_json_text(out, text[DATA].data, text[DATA].size)
        if fields.binary:
            _literal(out, b',"encoding":')
            if text[ENCODING].size:
                put_json_text(out, text[ENCODING].data, text[ENCODING].size)
                out.size -= 1
                _literal(out, b'/base64"')
            else:
                _literal(out, b'"base64"')
        elif text[ENCODING].data is not NULL:
            _literal(out, b',"encoding":')
            put_json_text(out, text[ENCODING].data, text[ENCODING].size)
        if fields.extras.data is not NULL:
            _literal(out, b',"extras":')
            _put_json_value(out, &fields.extras, 0)
        _literal(out, b',"action":0,"serial":"')
        put(out, name, SERIAL_TEXT_LENGTH + INDEX_LENGTH)
        put(out, b'"}', 2)
        return 0

    cdef int _msgpack_head(self, Out* out, uint64_t serial, const uint8_t* position, Head* head) except -1:
        put_map_header(out, 7 if head.connection_id.data is not NULL else 6)
        put(out, <const char*>self._prefix, <size_t>len(self._prefix))
        put(out, position, SERIAL_TEXT_LENGTH)
        _literal(out, b"\xa2id")
        put_str(out, head.id.data, head.id.size)
        if head.connection_id.data is not NULL:
            _literal(out, b"\xacconnectionId")
            put_str(out, head.connection_id.data, head.connection_id.size)
        _literal(out, b"\xa9timestamp")
        put_uint(out, serial >> 16)
        _literal(out, b"\xa8messages")
        put_array_header(out, head.count)
        return 0

    cdef int _msgpack_message(self, Out* out, Fields* fields, Head* head, const uint8_t* name, uint32_t index) except -1:
        cdef Text* text = fields.text
        cdef int digits
        put_map_header(out, 3 + (text[CLIENT_ID].data is not NULL) + (text[NAME].data is not NULL)
                       + (text[DATA].data is not NULL) + (text[ENCODING].data is not NULL)
                       + (fields.extras.data is not NULL))
        _literal(out, b"\xa2id")
        if text[ID].data is not NULL:
            put_str(out, text[ID].data, text[ID].size)
        else:
            digits = 1 if index < 10 else 2 if index < 100 else 3
            put_str_header(out, head.id.size + 1 + <size_t>digits)
            put(out, head.id.data, head.id.size)
            put_byte(out, 58)
            put_decimal(out, index)
        if text[CLIENT_ID].data is not NULL:
            _literal(out, b"\xa8clientId")
            put_str(out, text[CLIENT_ID].data, text[CLIENT_ID].size)
        if text[NAME].data is not NULL:
            _literal(out, b"\xa4name")
            put_str(out, text[NAME].data, text[NAME].size)
        if text[DATA].data is not NULL:
            _literal(out, b"\xa4data")
            if fields.binary:
                put_bin_header(out, text[DATA].size)
            else:
                put_str_header(out, text[DATA].size)
            put(out, text[DATA].data, text[DATA].size)
        if text[ENCODING].data is not NULL:
            _literal(out, b"\xa8encoding")
            put_str(out, text[ENCODING].data, text[ENCODING].size)
        if fields.extras.data is not NULL:
            _literal(out, b"\xa6extras")
            put(out, fields.extras.data, fields.extras.size)
        _literal(out, b"\xa6action")
        put_uint(out, 0)
        _literal(out, b"\xa6serial")
        put_str(out, name, SERIAL_TEXT_LENGTH + INDEX_LENGTH)
        return 0


cdef int _put_optional(Out* out, object text) except -1:
    cdef Py_ssize_t size
    cdef const char* data
    if text is None:
        put_byte(out, 0xc0)
    else:
        data = PyUnicode_AsUTF8AndSize(text, &size)
        put_str(out, data, <size_t>size)
    return 0


def encode_record(str id not None, str connection_id, str client_id, uint64_t flags, bytes messages not None):
    """An entry's neutral bytes; ``messages`` is the msgpack array that a Publish carries."""
    cdef Out out
    out_init(&out, 128 + <size_t>len(messages))
    try:
        put_array_header(&out, 5)
        _put_optional(&out, id)
        _put_optional(&out, connection_id)
        _put_optional(&out, client_id)
        put_uint(&out, flags)
        put(&out, <const char*>messages, <size_t>len(messages))
        return _taken(&out)
    finally:
        PyMem_Free(out.data)


cdef int _open(bytes record, In* source, Head* head) except -1:
    source.data = <const uint8_t*><const char*>record
    source.size = <size_t>len(record)
    source.at = 0
    return _read_head(source, head)


def record_messages(bytes record not None):
    """How many messages the entry has."""
    cdef In source
    cdef Head head
    _open(record, &source, &head)
    return head.count


def record_origin(bytes record not None):
    """The origin of the connection that published it; 0 if none did."""
    cdef In source
    cdef Head head
    _open(record, &source, &head)
    if head.connection_id.data is NULL:
        return 0
    return connection_origin(PyUnicode_DecodeUTF8(<const char*>head.connection_id.data,
                                                  <Py_ssize_t>head.connection_id.size, NULL))


def record_ids(bytes record not None):
    """The ids of its messages, given or derived."""
    cdef In source
    cdef Head head
    cdef Fields fields
    cdef uint32_t index
    cdef list ids = []
    _open(record, &source, &head)
    base = PyUnicode_DecodeUTF8(<const char*>head.id.data, <Py_ssize_t>head.id.size, NULL)
    for index in range(head.count):
        _read_message(&source, &fields)
        if fields.text[ID].data is NULL:
            ids.append(f"{base}:{index}")
        else:
            ids.append(PyUnicode_DecodeUTF8(<const char*>fields.text[ID].data, <Py_ssize_t>fields.text[ID].size, NULL))
    return ids


def ack_payload(int format, uint64_t msg_serial, list stored not None):
    """An ACK of ``len(stored)`` publishes from ``msg_serial`` on.

    Each of ``stored`` is ``(serial, series, first index, count)``: where its messages are.
    """
    cdef Out out
    cdef tuple place
    cdef uint32_t index, first, count, n = <uint32_t>len(stored)
    cdef uint8_t name[SERIAL_TEXT_LENGTH + INDEX_LENGTH]
    cdef bint following = False
    if n == 0:
        raise ValueError("there is nothing to acknowledge")
    out_init(&out, ROOM + 64 * <size_t>n)
    try:
        if format == 0:
            _literal(&out, b'{"action":1,"msgSerial":')
            put_decimal(&out, msg_serial)
            _literal(&out, b',"count":')
            put_decimal(&out, n)
            _literal(&out, b',"res":[')
        else:
            _literal(&out, b"\x84\xa6action\x01\xa9msgSerial")
            put_uint(&out, msg_serial)
            _literal(&out, b"\xa5count")
            put_uint(&out, n)
            _literal(&out, b"\xa3res")
            put_array_header(&out, n)
        for place in stored:
            _write_position(name, place[0], _series_of(place[1]))
            first, count = place[2], place[3]
            if first >= MOST_MESSAGES or count > MOST_MESSAGES - first:
                raise ValueError(f"an entry has at most {<int>MOST_MESSAGES} messages, got {first} + {count}")
            if format == 0:
                if following:
                    put_byte(&out, 44)
                following = True
                _literal(&out, b'{"serials":[')
            else:
                _literal(&out, b"\x81\xa7serials")
                put_array_header(&out, count)
            for index in range(first, first + count):
                _put_index(name + SERIAL_TEXT_LENGTH, index)
                if format == 0:
                    if index > first:
                        put_byte(&out, 44)
                    put_byte(&out, 34)
                    put(&out, name, SERIAL_TEXT_LENGTH + INDEX_LENGTH)
                    put_byte(&out, 34)
                else:
                    put_str(&out, name, SERIAL_TEXT_LENGTH + INDEX_LENGTH)
            if format == 0:
                put(&out, b"]}", 2)
        if format == 0:
            put(&out, b"]}", 2)
        return _taken(&out)
    finally:
        PyMem_Free(out.data)
