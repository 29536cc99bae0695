# cython: language_level=3
"""The usual publish, from the plane's buffer to the staged entry, without Python in between.

    take(bytes) -> plain publish? -> granted? -> within its terms? -> new? (Sequence.decide)
                        |               |              |              |
                        +---------------+-- no: False -+--------------+     nothing has changed
        yes: serial, record, entry; a receipt in the queue of answers

Everything else takes the slow path (server/realtime/accepting.py), which knows how to answer it, and asks the same
Author, Terms and Sequence. Once the slow path has permitted a publish to a channel, it calls ``grant`` here."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ext.log.author cimport Author
from ext.log.common cimport Common
from ext.log.decision cimport NEW
from ext.log.dedup cimport counted_id
from ext.log.home cimport Home
from ext.log.id_runs cimport WHO_CHARS
from ext.log.sequence cimport Sequence
from ext.log.staging cimport Names, decimal, names_after, new_record
from ext.log.terms cimport Terms
from ext.net.sink cimport Sink
from ext.wire.acks cimport AckQueue
from ext.wire.publish cimport Parser

cdef enum:
    MAX_NAMES = 1000            # granted at once; beyond that, all are asked for anew
    LONGEST_BASE = 64           # "<connection id>:<msgSerial>:<index>": 10 + 1 + 20 + 1 + 3

cdef uint64_t LARGEST_COUNTED = 1_000_000_000_000_000_000u     # 18 digits: with more it is text
cdef Parser _parser = Parser.__new__(Parser)        # only one thread receives


@cython.final
cdef class Ingest(Sink):
    """The plane's sink for the messages of one connection."""

    def __init__(self, Common common not None, AckQueue acks not None, Author author not None, Terms terms not None):
        """``author``: that of the connection, whose id has 10 characters (else ValueError)."""
        if len(author.connection) != WHO_CHARS:
            raise ValueError(f"an author with a connection is needed, got connection id {author.connection_id!r}")
        self._common = common
        self._acks = acks
        self._author = author
        self._terms = terms

    def bound(self, Author author not None, Terms terms not None):
        """Change author and terms. If the author is another, all grants end."""
        if author is not self._author:
            self.revoke_all()
        self._author = author
        self._terms = terms

    def grant(self, str name not None, Home home not None):
        """Permit plain publishes to the channel of this name, staged in ``home``, until it sleeps or the grant ends."""
        if self._homes is None or len(self._homes) >= MAX_NAMES:
            self._homes = {}
        self._homes[name.encode()] = home
        self._name = self._home = None          # this may be the one used last, under a log that sleeps by now

    def revoke(self, str name not None):
        if self._homes is not None:
            self._homes.pop(name.encode(), None)
        self._name = self._home = None

    def revoke_all(self):
        self._homes = None
        self._name = self._home = None

    def offer(self, bytes payload not None, bint binary):
        """The plane's call to the sink, for transports outside it. Returns True if the message has been processed."""
        return self.take(<const uint8_t*><const char*>payload, <size_t>len(payload), binary)

    cdef bint take(self, const uint8_t* data, size_t size, bint binary) except -1:
        if self._homes is None or not _parser.parse(data, size, binary):
            return False
        return self._stage(_parser)

    cdef bint _stage(self, Parser parser) except -1:
        cdef Author author = self._author
        cdef Home home
        cdef Sequence sequence
        cdef Names names
        cdef uint8_t base[LONGEST_BASE]
        cdef size_t length
        cdef bytes record
        cdef bint named = parser.ids is not None
        if parser.client_ids is not None or (named and parser.count > 1):
            return False
        if self._terms.fits(parser.count, parser.size) != NEW:
            return False
        if self._acks.is_full() or self._common.is_congested():
            return False                # reading from the connection is to pause
        home = self._find(parser)
        if home is None or not home.awake:
            return False
        if self._terms.room(home.incoming, home.max_bytes, parser.size, self._common.now_ms) != NEW:
            return False
        if home.held is not None and author.connection_id in home.held:
            return False                # a publish of the same connection waits there
        memcpy(base, <const char*>author.connection, WHO_CHARS)
        base[WHO_CHARS] = c':'
        length = WHO_CHARS + 1
        length += decimal(base + length, parser.msg_serial)
        base[length] = c':'             # prefix of the id of a message without an id of its own
        if named:
            names = Names(&base[0], length + 1, 1, home.dedup._id(parser.ids[0]))
            if not author.owns(names.first.data, names.first.size):
                return False
        elif parser.msg_serial < LARGEST_COUNTED:
            base[length + 1] = c'0'
            names = Names(&base[0], length + 1, parser.count,
                          counted_id(author.origin, parser.msg_serial, base, length + 2))
        else:
            names = names_after(home.dedup, base, length + 1, parser.count)
        home.dedup.prefetch(&names.first)
        record = new_record(base, length, author.sender, parser)
        sequence = home.sequence
        if sequence.decide(home, &names, author.inherited or named, 0) != NEW:
            return False
        self._terms.charge(home.incoming, parser.count, parser.size, self._common.now_ms)
        sequence.enter(home, &names, record, author.origin, 0,
                       self._acks.push(parser.msg_serial, <uint32_t>parser.out.size))
        return True

    cdef Home _find(self, Parser parser):
        """The log that was granted for the channel's name."""
        cdef bytes name = self._name
        cdef size_t size = parser.channel.size
        if name is not None and <size_t>len(name) == size and memcmp(<const char*>name, parser.channel.data, size) == 0:
            return self._home
        name = PyBytes_FromStringAndSize(<const char*>parser.channel.data, <Py_ssize_t>size)
        home = self._homes.get(name)
        if home is not None:
            self._name = name
            self._home = home
        return home

