# cython: language_level=3
"""The usual publish, from the plane's buffer to the staged entry, without Python in between.

    take(bytes) -> plain publish? -> may it be published there? -> within all bounds? -> ids new?
                        |                    |                          |                 |
                        +--------------------+------- no: False --------+-----------------+     nothing has changed
        yes: serial, record, entry; a receipt in the queue of answers

Whatever is not usual is left to those who know what to say about it: the rules are theirs, and this room is told by
``grant`` where they would say yes. So it refuses nothing, and accepts nothing that they would refuse."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ext.wire.acks cimport AckQueue
from ext.log.dedup cimport Id, counted_id
from ext.log.home cimport Home
from ext.text.output cimport Out, bytes_of, out_init, put_str
from ext.wire.publish cimport Parser
from ext.log.rate cimport Rate, charged
from ext.log.id_runs cimport WHO_CHARS, names_connection
from ext.log.sequence cimport Sequence
from ext.net.sink cimport Sink
from ext.log.staging cimport decimal, holds_any, new_record, remember
from ext.log.common cimport Common

from ext.text.serial import connection_origin

cdef enum:
    MOST_NAMES = 1000           # granted at once; then they are asked for anew
    LONGEST_BASE = 64           # of "<connection id>:<msgSerial>:<index>": 10 + 1 + 20 + 1 + 3

cdef uint64_t LARGEST_COUNTED = 1_000_000_000_000_000_000u     # 18 digits: with more it is text like any other
cdef Parser _parser = Parser.__new__(Parser)        # one thread receives
cdef Rate _UNLIMITED = Rate(0, 0)


@cython.final
cdef class Ingest(Sink):
    """Of one connection; the plane's sink for its messages."""

    def __init__(self, Common common not None, AckQueue acks not None, str connection_id not None, str client_id, *,
                 uint64_t most_bytes, uint32_t most_messages, uint64_t most_unanswered, uint64_t most_pending,
                 bint inherited=False):
        """
        Args:
            client_id: the identity of messages that name none.
            inherited: the connection is of an earlier life of the server, which may have ids of its.
            most_bytes, most_messages: of one publish.
            most_unanswered: bytes of this connection's publishes; most_pending: bytes of everybody's.
        """
        self._common = common
        self._acks = acks
        self.bound(None, _UNLIMITED, _UNLIMITED, most_bytes=most_bytes)
        self._most_messages = most_messages
        self._most_unanswered = most_unanswered
        self._most_pending = most_pending
        self._inherited = inherited
        self._origin = connection_origin(connection_id)
        self._connection = connection_id
        self._connection_id = connection_id.encode()
        self.identify(client_id)

    def identify(self, str client_id):
        """The connection has proven who it is, anew: what was granted is void."""
        client = b"\xc0" if client_id is None else _msgpack_str(client_id.encode())
        self._sender = _msgpack_str(self._connection_id) + client + b"\x00"     # no flags
        self.revoke_all()

    def bound(self, Rate connection, Rate key not None, Rate app not None, *, uint64_t most_bytes):
        """What it goes by from now on: rates (None: the connection has none of its own), and bytes of one publish."""
        self._connection_rate = connection
        self._key_rate = key
        self._app_rate = app
        self._most_bytes = most_bytes

    def limit(self, *, uint32_t most_messages, uint64_t most_pending):
        """What a publish may have, and all of them together, from now on."""
        self._most_messages = most_messages
        self._most_pending = most_pending

    def grant(self, str name not None, Home home not None):
        """Plain publishes to the channel of this name may be staged in ``home``, until it sleeps or they are revoked."""
        if self._homes is None or len(self._homes) >= MOST_NAMES:
            self._homes = {}
        self._homes[name.encode()] = home
        self._name = self._home = None          # it may be the one that was used last, under a log that sleeps by now

    def revoke(self, str name not None):
        if self._homes is not None:
            self._homes.pop(name.encode(), None)
        self._name = self._home = None

    def revoke_all(self):
        self._homes = None
        self._name = self._home = None

    def offer(self, bytes payload not None, bint binary):
        """As the plane does, for transports that are not its own: True if the message has been dealt with."""
        return self.take(<const uint8_t*><const char*>payload, <size_t>len(payload), binary)

    cdef bint take(self, const uint8_t* data, size_t size, bint binary) except -1:
        if self._homes is None or not _parser.parse(data, size, binary):
            return False
        return self._stage(_parser)

    cdef bint _stage(self, Parser parser) except -1:
        cdef Sequence sequence
        cdef Home home
        cdef uint64_t serial
        cdef uint8_t base[LONGEST_BASE]
        cdef size_t length
        cdef Id id
        cdef bytes record
        cdef uint32_t size = <uint32_t>(parser.out.size)
        cdef uint64_t size_charged = charged(parser.count, parser.size)
        if parser.client_ids is not None or (parser.ids is not None and parser.count > 1):
            return False
        if parser.size > self._most_bytes or parser.count > self._most_messages:
            return False
        if self._acks.bytes > self._most_unanswered or self._common.pending_bytes > self._most_pending:
            return False
        home = self._find(parser)
        if home is None or not home.awake:
            return False
        sequence = home.sequence
        if (sequence.refusing is not None or not self._common.may_remember(home.meter, parser.count)
                or not self._has_room(home, parser.size)):
            return False
        if home.held is not None and self._connection in home.held:
            return False                # something of its own waits there
        length = <size_t>len(self._connection_id)
        memcpy(base, <const char*>self._connection_id, length)
        base[length] = 58
        length += 1 + decimal(base + length + 1, parser.msg_serial)
        base[length] = 58               # the id of a message begins with that, if it has none of its own
        if parser.count == 1:
            if parser.ids is not None:
                id = home.dedup._id(parser.ids[0])
                if names_connection(id.data, id.size) and memcmp(id.data, base, WHO_CHARS) != 0:
                    return False
                if home.holds_earlier(&id):
                    return False
            elif parser.msg_serial < LARGEST_COUNTED:
                base[length + 1] = 48
                id = counted_id(self._origin, parser.msg_serial, base, length + 2)
            else:
                id = home.dedup.id_of(base, length + 1 + decimal(base + length + 1, 0))
            home.dedup.prefetch(&id)
        record = new_record(base, length, self._sender, parser)
        if home.dedup.holds(&id) if parser.count == 1 else holds_any(home.dedup, parser.count, base, length + 1):
            return False
        if self._inherited and home.holds_any_earlier(parser.count, base, length + 1):
            return False
        serial = sequence.clock.take(<uint64_t>self._common.now_ms)
        if parser.count == 1:
            home.dedup.take(&id, serial, 0, <uint64_t>self._common.steady_ms)
        else:
            remember(home.dedup, parser.count, serial, <uint64_t>self._common.steady_ms, base, length + 1)
        if self._connection_rate is not None:
            self._connection_rate.use(self._common.now_ms, parser.count, size_charged)
        if home.incoming is not None:
            home.incoming.use(self._common.now_ms, parser.count, size_charged)
        self._key_rate.use(self._common.now_ms, parser.count, size_charged)
        self._app_rate.use(self._common.now_ms, parser.count, size_charged)
        home.last_used_ms = self._common.steady_ms
        sequence.put(home, serial, record, self._origin, 0, parser.count, self._acks.push(parser.msg_serial, size))
        return True

    cdef bint _has_room(self, Home home, uint64_t size) noexcept:
        """Do all quotas allow for it? They are charged once it is certain that it is staged here."""
        cdef int64_t now_ms = self._common.now_ms
        return (size <= home.most_bytes
                and (self._connection_rate is None or self._connection_rate.has_room(now_ms))
                and (home.incoming is None or home.incoming.has_room(now_ms))
                and self._key_rate.has_room(now_ms) and self._app_rate.has_room(now_ms))

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


cdef bytes _msgpack_str(bytes text):
    cdef Out out
    out_init(&out, <size_t>len(text) + 8)
    put_str(&out, <const uint8_t*><const char*>text, <size_t>len(text))
    try:
        return bytes_of(&out, "a name")
    finally:
        PyMem_Free(out.data)
