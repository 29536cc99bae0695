# cython: language_level=3, auto_pickle=False, autotestdict=False
"""Parse a plain publish (ext/wire/plain.pyx), from its bytes to the contents of a record, in one pass.

    {"action":15,"channel":"c","msgSerial":7,"messages":[{"name":"n","data":"d"}]}      JSON or msgpack
        -> Publish(channel, msg_serial, count, size, ids, client_ids, messages)

Any other publish is None here, and takes the slow path."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.text.msgpack_input cimport In
from ext.text.output cimport Out, bytes_of, out_init, put, put_array_header
from ext.wire.members cimport P_NEEDED
from ext.wire.plain cimport ROOM, Builder, decoded
from ext.wire.plain_json cimport read_json, read_json_messages
from ext.wire.plain_msgpack cimport read_msgpack, read_msgpack_messages


@cython.final
@cython.freelist(64)
cdef class Publish:
    """One inbound publish: its form is valid; the rights of its sender are not checked.

    ``messages`` is the msgpack array for a record; ``size`` counts against maxMessageSize; ``ids`` and ``client_ids``
    are those of the messages (None: there are none). Only the slow path sets ``ephemeral`` and ``privileged``.
    """

    def __init__(self, str channel not None, uint64_t msg_serial, uint32_t count, uint64_t size, tuple ids,
                 tuple client_ids, bytes messages not None, *, bint ephemeral=False, bint privileged=False):
        self.channel = channel
        self.msg_serial = msg_serial
        self.count = count
        self.size = size
        self.ids = ids
        self.client_ids = client_ids
        self.messages = messages
        self.ephemeral = ephemeral
        self.privileged = privileged


@cython.final
cdef class Parser(Builder):
    """Reads one publish after the other."""

    cdef bint parse(self, const uint8_t* data, size_t size, bint msgpack) except -1:
        """Is it a plain publish? Then its parts are here; strings without escapes point into ``data``."""
        cdef In source
        self.begin(&source, data, size)
        if not (read_msgpack(&source, self) if msgpack else read_json(&source, self)):
            return False
        return self.seen & P_NEEDED == P_NEEDED and self.channel.size > 0 and self.complete()

    cdef bint parse_messages(self, const uint8_t* data, size_t size, bint msgpack) except -1:
        """The same for a message, or an array of them, alone: without a channel and a msgSerial."""
        cdef In source
        self.begin(&source, data, size)
        if not (read_msgpack_messages(&source, self) if msgpack else read_json_messages(&source, self)):
            return False
        return self.complete()

    cdef Publish publish(self):
        """The parsed publish, as an object."""
        cdef Publish publish
        publish = Publish.__new__(Publish)
        publish.channel = decoded(&self.channel)
        publish.msg_serial = self.msg_serial
        publish.count = self.count
        publish.size = self.size
        publish.ids = tuple(self.ids) if self.ids is not None else None
        publish.client_ids = tuple(self.client_ids) if self.client_ids is not None else None
        publish.messages = self._messages()
        return publish

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


cdef Parser _spare = Parser.__new__(Parser)     # creating one for each call costs more than reading a small publish


cdef Parser _take_spare():
    """The spare parser, or a new one while another thread uses it."""
    global _spare
    cdef Parser parser = _spare
    _spare = None
    return parser if parser is not None else Parser.__new__(Parser)


cdef void _give_back(Parser parser) noexcept:
    global _spare
    _spare = parser


def parse_publish(bytes payload not None, int format):
    """The publish in these bytes, or None: it takes the slow path."""
    cdef Parser parser = _take_spare()
    cdef Publish publish = None
    if parser.parse(<const uint8_t*><const char*>payload, <size_t>len(payload), format == 1):
        publish = parser.publish()
    _give_back(parser)
    return publish


def parse_messages(bytes body not None, int format):
    """The publish in a message, or an array of them, alone (its channel is empty); or None, as above."""
    cdef Parser parser = _take_spare()
    cdef Publish publish = None
    if parser.parse_messages(<const uint8_t*><const char*>body, <size_t>len(body), format == 1):
        publish = parser.publish()
    _give_back(parser)
    return publish
