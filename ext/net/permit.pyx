# cython: language_level=3
"""What one kind of HTTP request may publish, and where: from body to staged entry, and from serial to answer.

    Permit      credentials, versions and formats: permitted once, valid for requests that repeat them
      target -> Place      a channel, with its name for the answer
    stage(body) -> plain publish? -> within its terms? -> new? -> entry, and the id that the answer names
                        |                    |              |
                        +------------ no ----+--------------+     None; nothing has changed

As in ext/net/ingest.pyx, everything else takes the slow path, which asks the same Author, Terms and Sequence. The
issuer of permits revokes them when keys or revocations change. Otherwise a permit ends at ``good_until_ms``."""
from os import urandom

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ext.log.author cimport Author
from ext.log.common cimport Common
from ext.log.decision cimport NEW
from ext.log.home cimport Home
from ext.log.sequence cimport Sequence
from ext.log.staging cimport LONGEST_INDEX, Names, names_after, new_record
from ext.log.terms cimport Terms
from ext.net.published cimport opening_of, put_published
from ext.text.output cimport Out, out_init, put, put_decimal
from ext.text.utf8 cimport Text
from ext.wire.publish cimport Parser

cdef enum:
    MAX_PLACES = 1000          # of one permit; beyond that, all are asked for anew
    BASE_BYTES = 9              # random bytes of an id that we make: 12 characters, as in the libraries
    BASE_LENGTH = 12
    BASES = 128                 # made at once: many take the kernel no longer than one
    LONGEST_BASE = 256          # a longer id of a client takes the slow path
    BODY_ROOM = 4096
    KEPT_ROOM = 256 * 1024

cdef const char* BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

cdef Parser _parser = Parser.__new__(Parser)        # only one thread receives
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
    """A channel's log, and the beginning of an answer's body, which names the channel as the request does."""

    def __init__(self, Home home not None, str channel not None, *, bint msgpack):
        """Raises: UnicodeEncodeError, if ``channel`` is not text.

        Args:
            msgpack: the format of the answer."""
        self.home = home
        self.opening = opening_of(channel, msgpack)


@cython.final
cdef class Permit:
    """See above. One for all requests with the same credentials, version and formats."""

    def __init__(self, Common common not None, Author author not None, Terms terms not None, str app_id not None,
                 bytes head not None, refuse, *, bint msgpack_in, bint msgpack_out, int64_t good_until_ms):
        """
        Args:
            author: not that of a connection.
            head: of a 201 answer, up to the number of its Content-Length, which is the last header but Date.
            refuse: makes the complete answer for an error.
            good_until_ms: the time at which the credentials expire.
        """
        self._common = common
        self._author = author
        self._terms = terms
        self.app_id = app_id
        self._head = head
        self.refuse = refuse
        self._msgpack_in = msgpack_in
        self._msgpack_out = msgpack_out
        self.good_until_ms = good_until_ms
        self._places = {}

    def grant(self, str target not None, Place place not None):
        """Permit plain publishes to this target, staged in the place's log, until it sleeps."""
        if len(self._places) >= MAX_PLACES:
            self._places = {}
        self._places[target.encode()] = place

    cdef Place place(self, Text* target):
        """The place granted for this target, or None."""
        return self._places.get(PyBytes_FromStringAndSize(<const char*>target.data, <Py_ssize_t>target.size))

    cdef bytes stage(self, Place place, const uint8_t* body, size_t size, object completion):
        """Stage the body's publish; ``completion`` is told. Returns the answer's messageId; None: not usual."""
        if not place.home.awake or not _parser.parse_messages(body, size, self._msgpack_in):
            return None
        return self._stage(place.home, _parser, completion)

    cdef bytes _stage(self, Home home, Parser parser, object completion):
        cdef Author author = self._author
        cdef Sequence sequence = home.sequence
        cdef Names names
        cdef uint8_t base[LONGEST_BASE + 1 + LONGEST_INDEX]
        cdef size_t length = BASE_LENGTH
        cdef const char* id = NULL
        cdef Py_ssize_t size = 0
        cdef bytes record
        if self._terms.fits(parser.count, parser.size) != NEW or not self._names_fit(parser):
            return None
        if (self._common.is_congested()
                or self._terms.room(home.incoming, home.max_bytes, parser.size, self._common.now_ms) != NEW):
            return None
        if parser.ids is None:
            _new_base(base)
        else:
            id = PyUnicode_AsUTF8AndSize(parser.ids[0], &size)
            if size > LONGEST_BASE or not author.owns(<const uint8_t*>id, <size_t>size):
                return None
            length = <size_t>size
            memcpy(base, id, length)
            if length > 2 and base[length - 2] == c':' and base[length - 1] == c'0':
                length -= 2
            elif parser.count > 1:
                return None
        base[length] = c':'             # prefix of the id of a message without an id of its own
        self.named = id is not NULL and parser.count == 1
        if self.named:
            names = Names(&base[0], length + 1, 1, home.dedup.id_of(<const uint8_t*>id, <size_t>size))
        else:
            names = names_after(home.dedup, base, length + 1, parser.count)
        home.dedup.prefetch(&names.first)
        record = new_record(base, length, author.sender, parser)
        if sequence.decide(home, &names, id is not NULL, 0) != NEW:
            return None
        self._terms.charge(home.incoming, parser.count, parser.size, self._common.now_ms)
        sequence.enter(home, &names, record, 0, 0, completion)
        if self.named:
            return PyBytes_FromStringAndSize(id, size)
        return PyBytes_FromStringAndSize(<char*>base, <Py_ssize_t>length)

    cdef bint _names_fit(self, Parser parser) except -1:
        if parser.client_ids is not None:
            for client_id in parser.client_ids:
                if not self._author.permits_client_id(client_id):
                    return False
        return True

    cdef int write_answer(self, Out* out, Place place, bytes message_id, uint64_t serial, str series, uint32_t first,
                          uint32_t count, bytes date, bint last) except -1:
        """Write the complete 201 response; ``last``: the connection ends after it."""
        _body.size = 0
        put_published(&_body, self._msgpack_out, place.opening, message_id, serial, series, first, count)
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
            PyMem_Free(_body.data)          # do not keep the memory of one long answer
            out_init(&_body, BODY_ROOM)
        if out.failed:
            raise MemoryError("no memory for an answer")
        self.answered += 1
        return 0
