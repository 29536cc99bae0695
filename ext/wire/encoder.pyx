# cython: language_level=3, auto_pickle=False, autotestdict=False
"""Encode deliveries and acknowledgements, from records, without an object per field.

A record holds text as UTF-8 and binary data as bytes, whatever its original format, so one record serves every reader:

    {"action":15,"channel":c,"channelSerial":s,"id":i,"connectionId":n,"timestamp":t,"messages":[..]}

A message: ext/wire/message.pyx. Python imports from here what it needs of publish (inbound publishes) and record
(stored entries) too."""
cimport cython
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

from ext.wire.frame cimport OP_BINARY, OP_TEXT, write_header
from ext.text.msgpack_input cimport In, skip_item
from ext.text.output cimport (Out, bytes_of, out_init, put, put_array_header, put_byte, put_decimal, put_json_text, put_map_header,
                              put_str, put_uint, reserve)
from ext.wire.message cimport put_json_message, put_literal, put_msgpack_message, write_position
from ext.wire.record cimport CLIENT_ID, MAX_MESSAGES, Fields, Head, end_record, open_record_at, read_message
from ext.text.serial cimport ID_LENGTH, MESSAGE_TEXT_LENGTH, SERIAL_TEXT_LENGTH, ms_of, write_index, write_serial_text

from ext.wire.publish import Publish, parse_publish
from ext.wire.record import encode_record, record_ids, record_messages, record_origin

JSON, MSGPACK = 0, 1

cdef enum:
    LONGEST_HEADER = 10     # of a frame that is not masked
    ROOM = 512              # for a frame's size beyond the record's: most fit at once


cdef int _close_frame(Out* out, size_t start, int format) except -1:
    cdef size_t size
    cdef uint8_t header[LONGEST_HEADER]
    cdef int used
    if out.failed:
        raise MemoryError("no memory for a frame")
    size = out.size - start - LONGEST_HEADER
    used = write_header(header, OP_TEXT if format == 0 else OP_BINARY, size)
    memmove(out.data + start + used, out.data + start + LONGEST_HEADER, size)
    memcpy(out.data + start, header, <size_t>used)
    out.size = start + <size_t>used + size
    return 0


@cython.final
cdef class EntryEncoder:
    """Makes the frames of one channel in one format; ``channel`` is its name as the client wrote it."""

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
                put_literal(&out, b'{"action":15,"channel":')
                put_json_text(&out, <const uint8_t*>text, <size_t>size)
                put_literal(&out, b',"channelSerial":"')
            else:
                put_literal(&out, b"\xa6action\x0f\xa7channel")
                put_str(&out, text, <size_t>size)
                put_literal(&out, b"\xadchannelSerial\xbe")       # a str of 30 bytes follows
            self._prefix = bytes_of(&out, "a frame")
        finally:
            PyMem_Free(out.data)

    def payload(self, uint64_t serial, str series not None, bytes record not None):
        """The MESSAGE protocol message of an entry. Raises: ValueError, if the record is malformed."""
        cdef Out out
        out_init(&out, ROOM + <size_t>len(record))
        try:
            self._write(&out, serial, series, record, 0)
            return bytes_of(&out, "a frame")
        finally:
            PyMem_Free(out.data)

    def frame(self, uint64_t serial, str series not None, bytes record not None, *, uint32_t first=0):
        """The same as one WebSocket frame: text for JSON, binary for msgpack. Its messages begin with index ``first``,
        and keep their ids and serials. Raises: ValueError, also if there is no such message."""
        cdef Out out
        out_init(&out, ROOM + <size_t>len(record))
        try:
            self.write_frame(&out, serial, series, record, first)
            return bytes_of(&out, "a frame")
        finally:
            PyMem_Free(out.data)

    cdef int write_frame(self, Out* out, uint64_t serial, str series, bytes record, uint32_t first) except -1:
        """Reserve space for the longest header, and remove what is not needed. Returns the number of messages."""
        cdef size_t start = out.size
        cdef int count
        if reserve(out, LONGEST_HEADER):
            out.size += LONGEST_HEADER
        count = self._write(out, serial, series, record, first)
        _close_frame(out, start, self.format)
        return count

    cdef int write_stored(self, Out* out, uint64_t serial, const uint8_t* series, const uint8_t* record, size_t size,
                          const uint8_t* skip, uint32_t first) except -1:
        """Append the frame of a record in borrowed memory, unless the connection ``skip`` published it.

        ``series`` has its 8 characters; ``skip`` is the id of a connection, 10 characters, or NULL.
        Returns: the number of messages in the frame; 0: there is no frame.
        Raises: ValueError, if the record is malformed.
        """
        cdef uint8_t name[MESSAGE_TEXT_LENGTH]
        cdef In source
        cdef Head head
        cdef size_t start = out.size
        cdef int count
        if skip is not NULL:
            open_record_at(&source, record, size, &head)
            if head.connection_id.size == ID_LENGTH and memcmp(head.connection_id.data, skip, ID_LENGTH) == 0:
                return 0
        write_serial_text(name, serial, series)
        if reserve(out, LONGEST_HEADER):
            out.size += LONGEST_HEADER
        count = self._write_record(out, serial, name, record, size, first)
        _close_frame(out, start, self.format)
        return count

    cdef int _write(self, Out* out, uint64_t serial, str series, bytes record, uint32_t first) except -1:
        cdef uint8_t name[MESSAGE_TEXT_LENGTH]
        write_position(name, serial, series)
        return self._write_record(out, serial, name, <const uint8_t*><const char*>record, <size_t>len(record), first)

    cdef int _write_record(self, Out* out, uint64_t serial, uint8_t* name, const uint8_t* record, size_t size,
                           uint32_t first) except -1:
        """``name`` begins with the position, and has space after it for the index of a message. Returns the number of
        messages from index ``first`` on."""
        cdef In source
        cdef Head head
        cdef Fields fields
        cdef uint32_t index
        open_record_at(&source, record, size, &head)
        if first >= head.count:
            raise ValueError(f"an entry of {head.count} messages has none from index {first} on")
        if self.format == 0:
            _put_json_head(out, self._prefix, serial, name, &head)
        else:
            _put_msgpack_head(out, self._prefix, serial, name, &head, head.count - first)
        for index in range(head.count):
            read_message(&source, &fields)
            if index < first:
                continue
            if fields.text[CLIENT_ID].data is NULL:
                fields.text[CLIENT_ID] = head.client_id
            write_index(name, index)
            if self.format == 0:
                if index > first:
                    put_byte(out, c',')
                put_json_message(out, &fields, &head, name, index)
            else:
                put_msgpack_message(out, &fields, &head, name, index, 0)
        end_record(&source)
        if self.format == 0:
            put(out, b"]}", 2)
        return <int>(head.count - first)


# JSON

cdef void _put_json_head(Out* out, bytes prefix, uint64_t serial, const uint8_t* position, Head* head) noexcept:
    put(out, <const char*>prefix, <size_t>len(prefix))
    put(out, position, SERIAL_TEXT_LENGTH)
    put_literal(out, b'","id":')
    put_json_text(out, head.id.data, head.id.size)
    if head.connection_id.data is not NULL:
        put_literal(out, b',"connectionId":')
        put_json_text(out, head.connection_id.data, head.connection_id.size)
    put_literal(out, b',"timestamp":')
    put_decimal(out, ms_of(serial))
    put_literal(out, b',"messages":[')


# msgpack

cdef void _put_msgpack_head(Out* out, bytes prefix, uint64_t serial, const uint8_t* position, Head* head,
                            uint32_t count) noexcept:
    put_map_header(out, 6 + (head.connection_id.data is not NULL))
    put(out, <const char*>prefix, <size_t>len(prefix))
    put(out, position, SERIAL_TEXT_LENGTH)
    put_literal(out, b"\xa2id")
    put_str(out, head.id.data, head.id.size)
    if head.connection_id.data is not NULL:
        put_literal(out, b"\xacconnectionId")
        put_str(out, head.connection_id.data, head.connection_id.size)
    put_literal(out, b"\xa9timestamp")
    put_uint(out, ms_of(serial))
    put_literal(out, b"\xa8messages")
    put_array_header(out, count)


# acknowledgements

cdef int put_ack_head(Out* out, int format, uint64_t msg_serial, uint32_t count) noexcept:
    """The head of an ACK of ``count`` publishes from ``msg_serial`` on: ``count`` results follow, then its end."""
    if format == 0:
        put_literal(out, b'{"action":1,"msgSerial":')
        put_decimal(out, msg_serial)
        put_literal(out, b',"count":')
        put_decimal(out, count)
        put_literal(out, b',"res":[')
    else:
        put_literal(out, b"\x84\xa6action\x01\xa9msgSerial")
        put_uint(out, msg_serial)
        put_literal(out, b"\xa5count")
        put_uint(out, count)
        put_literal(out, b"\xa3res")
        put_array_header(out, count)
    return 0


cdef int put_ack_place(Out* out, int format, bint following, uint64_t serial, str series, uint32_t first,
                       uint32_t count) except -1:
    """The serials of one publish's messages: ``count`` of them from index ``first`` on."""
    cdef uint32_t index
    cdef uint8_t name[MESSAGE_TEXT_LENGTH]
    write_position(name, serial, series)
    if first >= MAX_MESSAGES or count > MAX_MESSAGES - first:
        raise ValueError(f"an entry has at most {<int>MAX_MESSAGES} messages, got {first} + {count}")
    if format == 0:
        if following:
            put_byte(out, c',')
        put_literal(out, b'{"serials":[')
    else:
        put_literal(out, b"\x81\xa7serials")
        put_array_header(out, count)
    for index in range(first, first + count):
        write_index(name, index)
        if format == 0:
            if index > first:
                put_byte(out, c',')
            put_byte(out, c'"')
            put(out, name, MESSAGE_TEXT_LENGTH)
            put_byte(out, c'"')
        else:
            put_str(out, name, MESSAGE_TEXT_LENGTH)
    if format == 0:
        put(out, b"]}", 2)
    return 0


cdef int put_ack_end(Out* out, int format) noexcept:
    if format == 0:
        put(out, b"]}", 2)
    return 0


def ack_payload(int format, uint64_t msg_serial, list stored not None):
    """An ACK of ``len(stored)`` publishes from ``msg_serial`` on.

    Each item of ``stored`` is ``(serial, series, first index, count)``, for the messages of one publish.
    """
    cdef Out out
    cdef tuple place
    cdef bint following = False
    if not stored:
        raise ValueError("there is nothing to acknowledge")
    out_init(&out, ROOM + 64 * <size_t>len(stored))
    try:
        put_ack_head(&out, format, msg_serial, <uint32_t>len(stored))
        for place in stored:
            put_ack_place(&out, format, following, place[0], place[1], place[2], place[3])
            following = True
        put_ack_end(&out, format)
        return bytes_of(&out, "a frame")
    finally:
        PyMem_Free(out.data)


def is_msgpack(bytes payload not None):
    """Is it one complete value, with all announced items? Then decoding takes memory in proportion to its size."""
    cdef In source
    cdef uint64_t items = 0
    source.data = <const uint8_t*><const char*>payload
    source.size = <size_t>len(payload)
    source.at = 0
    return skip_item(&source, &items) and source.at == source.size
