# cython: language_level=3, auto_pickle=False, autotestdict=False
"""The complete messages of one record for history: each as bytes of a format, in any order.

    a delivery's members (ext/wire/message.pyx),
    "connectionId":..,"timestamp":..,"version":{"serial":"s:000","timestamp":..}

In a delivery, the first two are members of the protocol message, and libraries derive the version from serial and
timestamp."""
cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.text.msgpack_input cimport In
from ext.text.output cimport Out, bytes_of, out_init, put, put_decimal, put_json_text, put_str, put_uint
from ext.text.serial cimport MESSAGE_TEXT_LENGTH, ms_of, write_index
from ext.wire.message cimport put_json_message, put_literal, put_msgpack_message, write_position
from ext.wire.record cimport CLIENT_ID, DATA, Fields, Head, end_record, open_record, read_message

cdef enum:
    ROOM = 512              # usually enough for a message's size beyond its data


@cython.final
cdef class StoredMessages:
    """Reads the record once, then makes messages one by one: the caller can let others run in between."""

    cdef Head _head
    cdef Fields* _fields            # of each message; they point into the record
    cdef bytes _record
    cdef uint64_t _timestamp
    cdef uint8_t _name[MESSAGE_TEXT_LENGTH]
    cdef bint _msgpack

    def __cinit__(self, bytes record not None, uint64_t serial, str series not None, int format):
        """Raises: ValueError, if the record is malformed."""
        cdef In source
        cdef uint32_t index
        self._record = record
        self._timestamp = ms_of(serial)
        self._msgpack = format == 1
        write_position(self._name, serial, series)
        open_record(&source, record, &self._head)
        self._fields = <Fields*>PyMem_Malloc(self._head.count * sizeof(Fields))
        if self._fields is NULL:
            raise MemoryError(f"no memory for {self._head.count} messages")
        for index in range(self._head.count):
            read_message(&source, &self._fields[index])
            if self._fields[index].text[CLIENT_ID].data is NULL:
                self._fields[index].text[CLIENT_ID] = self._head.client_id
        end_record(&source)

    def __dealloc__(self):
        PyMem_Free(self._fields)

    def __len__(self):
        return self._head.count

    def message(self, uint32_t index):
        """Raises: IndexError."""
        cdef Out out
        cdef Fields fields              # a copy: writing extras consumes it
        if index >= self._head.count:
            raise IndexError(f"an entry of {self._head.count} messages has none at {index}")
        fields = self._fields[index]
        write_index(self._name, index)
        out_init(&out, ROOM + fields.text[DATA].size)
        try:
            if self._msgpack:
                put_msgpack_message(&out, &fields, &self._head, self._name, index, 2 + self._has_connection())
                self._put_msgpack_rest(&out)
            else:
                put_json_message(&out, &fields, &self._head, self._name, index)
                self._put_json_rest(&out)
            return bytes_of(&out, "a message")
        finally:
            PyMem_Free(out.data)

    cdef bint _has_connection(self) noexcept:
        return self._head.connection_id.data is not NULL

    cdef void _put_json_rest(self, Out* out) noexcept:
        if not out.failed:
            out.size -= 1               # the closing brace: more members follow
        if self._has_connection():
            put_literal(out, b',"connectionId":')
            put_json_text(out, self._head.connection_id.data, self._head.connection_id.size)
        put_literal(out, b',"timestamp":')
        put_decimal(out, self._timestamp)
        put_literal(out, b',"version":{"serial":"')
        put(out, self._name, MESSAGE_TEXT_LENGTH)
        put_literal(out, b'","timestamp":')
        put_decimal(out, self._timestamp)
        put(out, b"}}", 2)

    cdef void _put_msgpack_rest(self, Out* out) noexcept:
        if self._has_connection():
            put_literal(out, b"\xacconnectionId")
            put_str(out, self._head.connection_id.data, self._head.connection_id.size)
        put_literal(out, b"\xa9timestamp")
        put_uint(out, self._timestamp)
        put_literal(out, b"\xa7version\x82\xa6serial")
        put_str(out, self._name, MESSAGE_TEXT_LENGTH)
        put_literal(out, b"\xa9timestamp")
        put_uint(out, self._timestamp)
