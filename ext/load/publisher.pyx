# cython: language_level=3
"""The sending side of the load tester: published messages carry a mark, and are numbered.

    mark       ~RRRRRRRR.PPPPPP.SSSSSSSSSS.TTTTTTTTTTTTTTTT~      run, publisher, sequence number, due time (ns);
                                                                  hexadecimal, so it survives JSON and msgpack
    Template   makes the bytes of a publish            Publisher   what one publisher has sent, and the answers
    Tally      totals of all publishers, and of all receivers (ext/load/receiver.pyx)

A publisher makes WebSocket frames, many at a time, without a Python object for each. After a connection was cut and
resumed, it can make the unanswered frames again, identical but for the mask."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from os import urandom

from ext.wire cimport frame as codec
from ext.load.histogram cimport Histogram
from ext.net.kernel cimport monotonic_ns
from ext.wire.mask cimport apply_mask
from ext.load.ranges cimport Ranges

MARK_BYTES = 45
MAX_RANGES = 4_000_000     # gaps kept separately, by all receivers: 64 MiB; further ones are only counted
MAX_EXAMPLES = 10

def now_ns():
    """The clock of marks: monotonic, the same for all processes of this machine."""
    return monotonic_ns()


cdef void _put_hex(uint8_t* to, uint64_t value, int digits) noexcept nogil:
    cdef int i
    for i in range(digits - 1, -1, -1):
        to[i] = b"0123456789abcdef"[value & 15]
        value >>= 4


cdef int _digits(uint64_t value) noexcept nogil:
    cdef int count = 1
    while value >= 10:
        value //= 10
        count += 1
    return count


@cython.final
cdef class Template:
    """A publish of ``count`` messages with a mark each: ``before``, its number in this connection, ``after``.

    ``after`` has ``b"~" * 45`` in place of each mark. The number is decimal (JSON) or a msgpack integer.
    """

    def __init__(self, bytes before not None, bytes after not None, bint binary, bytes run not None, uint64_t publisher):
        cdef Py_ssize_t at = 0
        cdef list places = []
        cdef size_t i
        if self._places is not NULL:
            raise ValueError("it is made once")
        if len(run) != RUN_BYTES or publisher >> 4 * PUBLISHER_DIGITS:
            raise ValueError("a run has 8 bytes, a publisher's number 6 hexadecimal digits")
        while True:
            at = after.find(b"~" * _MARK_BYTES, at)
            if at < 0:
                break
            places.append(at)
            at += _MARK_BYTES
        if not places:
            raise ValueError("there is no place for a mark")
        self._places = <size_t*>malloc(<size_t>len(places) * sizeof(size_t))
        if self._places is NULL:
            raise MemoryError("no memory for the places of marks")
        self.count = <uint64_t>len(places)
        for i in range(self.count):
            self._places[i] = places[i]
        self._before = before
        self._after = after
        self._binary = binary
        self._run = run
        self._publisher = publisher

    def __dealloc__(self):
        free(self._places)

    def make(self, uint64_t number, uint64_t sequence, int64_t due_ns):
        """The payload of publish ``number``, whose first message has this sequence number."""
        cdef bytes made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>self.size(number))
        self.write(<uint8_t*>PyBytes_AS_STRING(made), number, sequence, due_ns)
        return made

    cdef size_t size(self, uint64_t number) noexcept:
        return <size_t>len(self._before) + <size_t>len(self._after) + <size_t>(9 if self._binary else _digits(number))

    cdef void write(self, uint8_t* to, uint64_t number, uint64_t sequence, int64_t due_ns) noexcept:
        """Write ``size`` bytes."""
        cdef int i, digits
        cdef size_t place
        cdef uint64_t n
        cdef uint8_t* mark
        memcpy(to, PyBytes_AS_STRING(self._before), <size_t>len(self._before))
        to += len(self._before)
        if self._binary:
            to[0] = 0xcf
            for i in range(8):
                to[8 - i] = <uint8_t>(number >> 8 * i & 255)
            to += 9
        else:
            digits = _digits(number)
            for i in range(digits - 1, -1, -1):
                to[i] = <uint8_t>(c'0' + number % 10)
                number //= 10
            to += digits
        memcpy(to, PyBytes_AS_STRING(self._after), <size_t>len(self._after))
        for n in range(self.count):
            mark = to + self._places[n]
            memcpy(mark + 1, PyBytes_AS_STRING(self._run), RUN_BYTES)
            mark[9] = mark[16] = mark[27] = c'.'
            _put_hex(mark + PUBLISHER_AT, self._publisher, PUBLISHER_DIGITS)
            _put_hex(mark + SEQUENCE_AT, sequence + n, SEQUENCE_DIGITS)
            _put_hex(mark + DUE_AT, <uint64_t>due_ns, DUE_DIGITS)


@cython.final
cdef class Tally:
    """Totals of all connections of one run. ``latency`` and ``ack_latency`` are in microseconds.

    ``max_ranges``: the number of gaps that are remembered; further ones are only counted (``unlocated``)."""

    def __init__(self, bytes run not None, *, Py_ssize_t max_ranges=MAX_RANGES):
        if len(run) != RUN_BYTES:
            raise ValueError("a run has 8 bytes")
        self.mark = b"~" + run + b"."
        self.latency = Histogram()
        self.ack_latency = Histogram()
        self.examples = []
        self.publishers = {}
        self.max_ranges = max_ranges

    def measure(self, int64_t from_ns, int64_t to_ns):
        """Record times of messages due from ``from_ns`` to before ``to_ns``, whenever they arrive or are answered."""
        self.measure_from = from_ns
        self.measure_to = to_ns


@cython.final
cdef class Publisher:
    """One connection's publishes: numbered from 0, made from ``template``. ``touched`` collects publishers with new
    answers, until it is emptied. ``refused_messages`` are numbers of messages, ``refused`` counts publishes."""

    def __init__(self, Tally tally not None, uint64_t number, Template template not None, object owner,
                 list touched not None):
        self._tally = tally
        self._template = template
        self.number = number
        self.per_publish = template.count
        self.owner = owner
        self._touched = touched
        self.refused_messages = Ranges()
        self._mask_state = int.from_bytes(urandom(8), "little") | 1
        tally.publishers[number] = self

    def __dealloc__(self):
        free(self._due)

    def frames(self, list due_ns not None):
        """The next publishes, due at these times, as masked WebSocket frames. They count as sent."""
        cdef uint64_t first = self.sent
        cdef int64_t due
        for due in due_ns:
            self._note(due)
        return self._frames(first)

    def unanswered_frames(self):
        """All unanswered publishes again."""
        return self._frames(self.answered)

    cdef bytes _frames(self, uint64_t first):
        cdef Template template = self._template
        cdef size_t total = 0, size
        cdef uint64_t n
        cdef bytes made
        cdef uint8_t* at
        cdef uint8_t* key
        for n in range(first, self.sent):
            size = template.size(n)
            total += size + <size_t>(6 if size < 126 else 8 if size < 65536 else codec.LONGEST_HEADER)
        made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>total)
        at = <uint8_t*>PyBytes_AS_STRING(made)
        for n in range(first, self.sent):
            size = template.size(n)
            at += codec.write_masked_header(at, codec.OP_BINARY if template._binary else codec.OP_TEXT, size,
                                            &self._mask_state)
            key = at - 4
            template.write(at, n, n * self.per_publish, self._due[n & self._mask])
            apply_mask(at, size, key)
            at += size
        return made

    cdef int _note(self, int64_t due_ns) except -1:
        cdef int64_t* grown
        cdef uint64_t n, room
        if self._due is NULL or self.sent - self.answered > self._mask:
            room = 16 if self._due is NULL else 2 * (self._mask + 1)
            grown = <int64_t*>calloc(room, sizeof(int64_t))
            if grown is NULL:
                raise MemoryError("no memory for what is unanswered")
            for n in range(self.answered, self.sent):
                grown[n & (room - 1)] = self._due[n & self._mask]
            free(self._due)
            self._due = grown
            self._mask = room - 1
        self._due[self.sent & self._mask] = due_ns
        self.sent += 1
        return 0

    def refuse(self, uint64_t first, uint64_t count):
        """The server has refused these publishes."""
        if count and self.answer(first, count, True):
            self.refused_messages.append(first * self.per_publish, (first + count) * self.per_publish)

    def acknowledge(self, uint64_t first, uint64_t count):
        """An ACK that Python has read."""
        self.answer(first, count, False)

    cdef bint answer(self, uint64_t first, uint64_t count, bint refused) except *:
        cdef Tally tally = self._tally
        cdef int64_t now = monotonic_ns(), due
        cdef uint64_t n
        if first != self.answered or count > self.sent - first:
            tally.stray_acks += 1
            if len(tally.examples) < MAX_EXAMPLES:
                tally.examples.append(f"publisher {self.number}: an answer to {count} publishes from {first} on, expected "
                                      f"one to {self.answered}; {self.sent} were sent")
            return False
        if refused:
            self.refused += count
        else:
            tally.acknowledged += count * self.per_publish
            for n in range(first, first + count):
                due = self._due[n & self._mask]
                if tally.measure_from <= due < tally.measure_to:
                    tally.ack_latency.add(<uint64_t>max(now - due, 0) // 1000)
        self.answered += count
        if not self._waiting:
            self._waiting = True
            self._touched.append(self)
        return True

    def taken(self):
        """It has been removed from ``touched``."""
        self._waiting = False
