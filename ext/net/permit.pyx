# cython: language_level=3
"""What one kind of HTTP request may publish, and where: from its body to the staged entry, from the serial to its answer.

    Permit      credentials, versions and formats: what was said yes to once, of requests that say the same again
      target -> Place      a channel, as it is called in the answer
    stage(body) -> plain publish? -> within all bounds? -> ids new? -> entry, and the id that the answer names
                        |                    |                 |
                        +------------ no ----+-----------------+     None; nothing has changed

As in ext/net/ingest.pyx, whatever is not usual is left to those who know what to say about it. A permit ends with what it was
given for: whoever gives them out takes them back when keys or revocations change, and ``good_until_ms`` is the rest."""
from os import urandom

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ext.log.dedup cimport Id
from ext.log.home cimport Home
from ext.text.output cimport (Out, out_init, put, put_array_header, put_byte, put_decimal, put_json_text, put_str, put_str_header)
from ext.wire.publish cimport Parser
from ext.log.rate cimport Rate, charged
from ext.log.id_runs cimport names_connection
from ext.log.sequence cimport Sequence
from ext.text.serial cimport SERIAL_LENGTH, SERIES_LENGTH, write_serial
from ext.log.staging cimport LONGEST_INDEX, decimal, holds_any, new_record, remember
from ext.log.common cimport Common
from ext.text.utf8 cimport Text

cdef enum:
    MOST_PLACES = 1000          # of one permit; then they are asked for anew
    BASE_BYTES = 9              # random, of an id that we make: 12 characters, as the libraries make them
    BASE_LENGTH = 12
    BASES = 128                 # made at once: the kernel takes as long for many as for one
    LONGEST_BASE = 256          # an id of somebody's own that is longer goes the long way
    MESSAGE_SERIAL = 34         # characters
    BODY_ROOM = 4096
    KEPT_ROOM = 256 * 1024

cdef const char* BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

cdef Parser _parser = Parser.__new__(Parser)        # one thread receives
cdef Out _body
out_init(&_body, BODY_ROOM)
cdef bytes _random = b""
cdef size_t _random_at = 0


cdef int _new_base(uint8_t* to) except -1:
    """Write an id of our own, of BASE_LENGTH characters."""
    global _random, _random_at
    cdef const uint8_t* source
    cdef uint32_t group
    cdef int i
    if _random_at == <size_t>len(_random):
        _random = urandom(BASE_BYTES * BASES)
        _random_at = 0
    source = <const uint8_t*><const char*>_random + _random_at
    _random_at += BASE_BYTES
    for i in range(BASE_BYTES // 3):
        group = <uint32_t>source[3 * i] << 16 | <uint32_t>source[3 * i + 1] << 8 | source[3 * i + 2]
        to[4 * i] = <uint8_t>BASE64URL[group >> 18]
        to[4 * i + 1] = <uint8_t>BASE64URL[group >> 12 & 63]
        to[4 * i + 2] = <uint8_t>BASE64URL[group >> 6 & 63]
        to[4 * i + 3] = <uint8_t>BASE64URL[group & 63]
    return 0


@cython.final
cdef class Place:
    """A channel's log, and the beginning of an answer's body that names it (up to where the message id stands)."""

    def __init__(self, Home home not None, bytes opening not None):
        self.home = home
        self.opening = opening


@cython.final
cdef class Permit:
    """See above. One for all requests that come with the same credentials, version and formats."""

    def __init__(self, Common common not None, str app_id not None, bytes head not None, refuse, *, bint msgpack_in,
                 bint msgpack_out, str client_id, bint wildcard, Rate key not None, Rate app not None,
                 uint64_t most_bytes, uint32_t most_messages, uint64_t most_pending, int64_t good_until_ms):
        """
        Args:
            head: of an answer with 201, up to the number of its Content-Length, which is the last header but Date.
            refuse: makes the whole answer that tells an error.
            client_id: the identity of messages that name none; with ``wildcard`` messages may name any.
            most_bytes, most_messages: of one publish; most_pending: bytes of everybody's.
            good_until_ms: the first time at which the credentials are not good any more.
        """
        cdef bytes name = b"" if client_id is None else client_id.encode()
        cdef Out sender
        self._common = common
        self.app_id = app_id
        self._head = head
        self.refuse = refuse
        self._msgpack_in = msgpack_in
        self._msgpack_out = msgpack_out
        self._client_id = client_id
        self._wildcard = wildcard
        self._key_rate = key
        self._app_rate = app
        self._most_bytes = most_bytes
        self._most_messages = most_messages
        self._most_pending = most_pending
        self.good_until_ms = good_until_ms
        self._places = {}
        out_init(&sender, <size_t>len(name) + 8)
        try:
            put_byte(&sender, 0xc0)
            if client_id is None:
                put_byte(&sender, 0xc0)
            else:
                put_str(&sender, <const char*>name, <size_t>len(name))
            put_byte(&sender, 0)
            if sender.failed:
                raise MemoryError("no memory for a name")
            self._sender = PyBytes_FromStringAndSize(<char*>sender.data, <Py_ssize_t>sender.size)
        finally:
            PyMem_Free(sender.data)

    def grant(self, str target not None, Place place not None):
        """Plain publishes to this target may be staged in the place's log, until it sleeps."""
        if len(self._places) >= MOST_PLACES:
            self._places = {}
        self._places[target.encode()] = place

    cdef Place place(self, Text* target):
        """What was granted for this target, or None."""
        return self._places.get(PyBytes_FromStringAndSize(<const char*>target.data, <Py_ssize_t>target.size))

    cdef bytes stage(self, Place place, const uint8_t* body, size_t size, object completion):
        """Stage what the body holds; ``completion`` is told. Returns what the answer calls messageId; None: not here."""
        if not place.home.awake or not _parser.parse_messages(body, size, self._msgpack_in):
            return None
        return self._stage(place.home, _parser, completion)

    cdef bytes _stage(self, Home home, Parser parser, object completion):
        cdef Sequence sequence = home.sequence
        cdef uint8_t base[LONGEST_BASE + 1 + LONGEST_INDEX]
        cdef size_t length = BASE_LENGTH
        cdef const char* id = NULL
        cdef Py_ssize_t size = 0
        cdef uint64_t serial, size_charged = charged(parser.count, parser.size)
        cdef Id message_id
        if parser.size > self._most_bytes or parser.count > self._most_messages or not self._names_fit(parser):
            return None
        if sequence.refusing is not None:
            return None
        if (self._common.pending_bytes > self._most_pending or not self._common.may_remember(home.meter, parser.count)
                or not self._has_room(home, parser.size)):
            return None
        if parser.ids is None:
            _new_base(base)
        else:
            id = PyUnicode_AsUTF8AndSize(parser.ids[0], &size)
            if size > LONGEST_BASE or names_connection(<const uint8_t*>id, <size_t>size):
                return None
            length = <size_t>size
            memcpy(base, id, length)
            if length > 2 and base[length - 2] == 58 and base[length - 1] == 48:        # ":0"
                length -= 2
            elif parser.count > 1:
                return None
        base[length] = 58               # the id of a message begins with that, if it has none of its own
        if parser.count == 1:
            message_id = (home.dedup.id_of(<const uint8_t*>id, <size_t>size) if id is not NULL
                          else home.dedup.id_of(base, length + 1 + decimal(base + length + 1, 0)))
            home.dedup.prefetch(&message_id)
        record = new_record(base, length, self._sender, parser)
        if parser.count == 1:
            if home.dedup.holds(&message_id) or (id is not NULL and home.holds_earlier(&message_id)):
                return None
        elif (holds_any(home.dedup, parser.count, base, length + 1)
              or (id is not NULL and home.holds_any_earlier(parser.count, base, length + 1))):
            return None
        serial = sequence.clock.take(<uint64_t>self._common.now_ms)
        if parser.count == 1:
            home.dedup.take(&message_id, serial, 0, <uint64_t>self._common.steady_ms)
        else:
            remember(home.dedup, parser.count, serial, <uint64_t>self._common.steady_ms, base, length + 1)
        if home.incoming is not None:
            home.incoming.use(self._common.now_ms, parser.count, size_charged)
        self._key_rate.use(self._common.now_ms, parser.count, size_charged)
        self._app_rate.use(self._common.now_ms, parser.count, size_charged)
        home.last_used_ms = self._common.steady_ms
        sequence.put(home, serial, record, 0, 0, parser.count, completion)
        self.named = id is not NULL and parser.count == 1
        if self.named:
            return PyBytes_FromStringAndSize(id, size)
        return PyBytes_FromStringAndSize(<char*>base, <Py_ssize_t>length)

    cdef bint _names_fit(self, Parser parser) except -1:
        """May its messages come from whom they say? The rules are those of engine.auth.tokens, for the usual names."""
        if parser.client_ids is not None:
            for name in parser.client_ids:
                if name is not None and (name == "*" or not (self._wildcard or name == self._client_id)):
                    return False
        return True

    cdef bint _has_room(self, Home home, uint64_t size) noexcept:
        """Do all quotas allow for it? They are charged once it is certain that it is staged here."""
        cdef int64_t now_ms = self._common.now_ms
        return (size <= home.most_bytes and (home.incoming is None or home.incoming.has_room(now_ms))
                and self._key_rate.has_room(now_ms) and self._app_rate.has_room(now_ms))

    cdef int write_answer(self, Out* out, Place place, bytes message_id, uint64_t serial, str series, uint32_t first,
                          uint32_t count, bytes date, bint last) except -1:
        """The whole response with 201; ``last``: the connection ends with it."""
        _body.size = 0
        _put_body(&_body, self._msgpack_out, place.opening, message_id, serial, series, first, count)
        put(out, <const char*>self._head, <size_t>len(self._head))
        put_decimal(out, _body.size)
        put(out, b"\r\nDate: ", 8)
        put(out, <const char*>date, <size_t>len(date))
        if last:
            put(out, b"\r\nConnection: close", 19)
        put(out, b"\r\n\r\n", 4)
        put(out, _body.data, _body.size)
        if _body.failed or _body.room > KEPT_ROOM:
            out.failed = out.failed or _body.failed
            PyMem_Free(_body.data)          # one long answer is no reason to hold so much for ever
            out_init(&_body, BODY_ROOM)
        if out.failed:
            raise MemoryError("no memory for an answer")
        self.answered += 1
        return 0


cdef int _put_body(Out* out, bint msgpack, bytes opening, bytes message_id, uint64_t serial, str series, uint32_t first,
                   uint32_t count) except -1:
    """{"channel": ..., "messageId": ..., "serials": [...]}, of which the opening is there."""
    cdef uint8_t text[MESSAGE_SERIAL]
    cdef Py_ssize_t size = 0
    cdef const char* name = PyUnicode_AsUTF8AndSize(series, &size)
    cdef const uint8_t* id = <const uint8_t*><const char*>message_id
    cdef uint32_t n
    if size != SERIES_LENGTH:
        raise ValueError(f"{series!r} is no series")
    write_serial(<char*>text, serial)
    text[SERIAL_LENGTH] = 64
    memcpy(text + SERIAL_LENGTH + 1, name, SERIES_LENGTH)
    text[SERIAL_LENGTH + 1 + SERIES_LENGTH] = 58
    put(out, <const char*>opening, <size_t>len(opening))
    if msgpack:
        put_str(out, id, <size_t>len(message_id))
        put(out, b"\xa7serials", 8)
        put_array_header(out, count)
    else:
        put_json_text(out, id, <size_t>len(message_id))
        put(out, b',"serials":[', 12)
    for n in range(first, first + count):
        text[31] = <uint8_t>(48 + n // 100)
        text[32] = <uint8_t>(48 + n // 10 % 10)
        text[33] = <uint8_t>(48 + n % 10)
        if msgpack:
            put_str_header(out, MESSAGE_SERIAL)
        elif n > first:
            put(out, b',"', 2)
        else:
            put_byte(out, 34)
        put(out, text, MESSAGE_SERIAL)
        if not msgpack:
            put_byte(out, 34)
    if not msgpack:
        put(out, b"]}", 2)
    return 0
