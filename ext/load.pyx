# cython: language_level=3
"""The inner loops of the load tester: what is published carries a mark, and what arrives is looked through for marks.

    mark       ~RRRRRRRR.PPPPPP.SSSSSSSSSS.TTTTTTTTTTTTTTTT~      run, publisher, sequence number, when it was due (ns);
                                                                  hexadecimal, so it survives JSON and msgpack
    Template   makes the bytes of a publish            Publisher   what one has sent, and what has been acknowledged
    Receiver   the plane's sink: deliveries and ACKs, without a Python object for any of them
    Tally      what all of them have seen

A receiver expects of each publisher of its channel one number after the other. What is not the expected one goes to
Python, once: a gap, if it is ahead; one that came late, if it lies in a gap; else a repeat."""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from ext.histogram cimport Histogram
from ext.kernel cimport CLOCK_MONOTONIC, clock_gettime, timespec
from ext.sink cimport Sink

cdef extern from "<string.h>" nogil:
    void* memmem(const void* haystack, size_t length, const void* needle, size_t size)

MARK_BYTES = 45
MOST_RANGES = 100_000       # gaps that are kept apart, of all receivers; more are only counted

cdef enum:
    _MARK_BYTES = 45
    RUN_BYTES = 8
    PUBLISHER_AT = 10
    PUBLISHER_DIGITS = 6
    SEQUENCE_AT = 17
    SEQUENCE_DIGITS = 10
    DUE_AT = 28
    DUE_DIGITS = 16
    LONGEST_SERIAL = 128


cdef int64_t _now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


def now_ns():
    """The clock of marks: monotonic, the same for all processes of this machine."""
    return _now_ns()


cdef void _put_hex(uint8_t* to, uint64_t value, int digits) noexcept nogil:
    cdef int i
    for i in range(digits - 1, -1, -1):
        to[i] = b"0123456789abcdef"[value & 15]
        value >>= 4


cdef bint _take_hex(const uint8_t* at, int digits, uint64_t* value) noexcept nogil:
    cdef int i
    cdef uint8_t c
    value[0] = 0
    for i in range(digits):
        c = at[i]
        if 48 <= c <= 57:
            value[0] = value[0] << 4 | <uint64_t>(c - 48)
        elif 97 <= c <= 102:
            value[0] = value[0] << 4 | <uint64_t>(c - 87)
        else:
            return False
    return True


@cython.final
cdef class Template:
    """A publish of ``count`` messages with a mark each: ``before``, its number in this connection, ``after``.

    ``after`` has ``b"~" * 45`` wherever a mark belongs. The number is decimal (JSON) or a msgpack integer.
    """

    cdef bytes _before, _after, _run
    cdef bint _binary
    cdef uint64_t _publisher
    cdef list _places

    def __init__(self, bytes before not None, bytes after not None, bint binary, bytes run not None, uint64_t publisher):
        cdef Py_ssize_t at = 0
        if len(run) != RUN_BYTES or publisher >> 4 * PUBLISHER_DIGITS:
            raise ValueError("a run has 8 bytes, a publisher's number 6 hexadecimal digits")
        self._before = before
        self._after = after
        self._binary = binary
        self._run = run
        self._publisher = publisher
        self._places = []
        while True:
            at = after.find(b"~" * _MARK_BYTES, at)
            if at < 0:
                break
            self._places.append(at)
            at += _MARK_BYTES
        if not self._places:
            raise ValueError("there is no place for a mark")

    @property
    def count(self):
        return len(self._places)

    def make(self, uint64_t number, uint64_t sequence, int64_t due_ns):
        """The payload: publish ``number``, its first message with this sequence number."""
        cdef bytes serial = (b"\xcf" + number.to_bytes(8, "big")) if self._binary else b"%d" % number
        cdef bytes made = self._before + serial + self._after
        cdef uint8_t* body = <uint8_t*><char*>made + len(self._before) + len(serial)
        cdef Py_ssize_t place
        cdef uint8_t* mark
        for place in self._places:
            mark = body + place
            memcpy(mark + 1, <const char*>self._run, RUN_BYTES)
            mark[9] = mark[16] = mark[27] = 46
            _put_hex(mark + PUBLISHER_AT, self._publisher, PUBLISHER_DIGITS)
            _put_hex(mark + SEQUENCE_AT, sequence, SEQUENCE_DIGITS)
            _put_hex(mark + DUE_AT, <uint64_t>due_ns, DUE_DIGITS)
            sequence += 1
        return made


@cython.final
cdef class Tally:
    """What all connections of one run have seen. ``latency`` and ``ack_latency`` are in microseconds."""

    cdef readonly Histogram latency, ack_latency
    cdef readonly uint64_t delivered, acknowledged, repeats, inversions, missing, unlocated, misplaced, stray_acks
    cdef readonly bint measuring            # else only the counts go on: warming up
    cdef readonly list examples             # the first oddities, as text
    cdef bytes _run
    cdef Py_ssize_t _ranges

    def __init__(self, bytes run not None):
        if len(run) != RUN_BYTES:
            raise ValueError("a run has 8 bytes")
        self._run = b"~" + run + b"."
        self.latency = Histogram()
        self.ack_latency = Histogram()
        self.examples = []

    def measure(self, bint on):
        """From now on times are recorded, or not."""
        self.measuring = on

    cdef int example(self, str text) except -1:
        if len(self.examples) < 10:
            self.examples.append(text)
        return 0


@cython.final
cdef class Publisher:
    """One connection's publishes: numbered from 0, each of ``per_publish`` messages. ``touched`` gathers those that have
    been answered since it was emptied."""

    cdef readonly uint64_t sent, answered, refused      # publishes
    cdef readonly uint64_t number, per_publish
    cdef readonly object owner
    cdef readonly set refused_sequences                 # of messages
    cdef Tally _tally
    cdef list _touched
    cdef bint _waiting
    cdef int64_t* _due                                  # of publish n at n & mask, while it is unanswered
    cdef uint64_t _mask

    def __init__(self, Tally tally not None, uint64_t number, uint64_t per_publish, object owner, list touched not None):
        self._tally = tally
        self.number = number
        self.per_publish = per_publish
        self.owner = owner
        self._touched = touched
        self.refused_sequences = set()

    def __dealloc__(self):
        free(self._due)

    def note_sent(self, int64_t due_ns):
        """One more has been sent, which was due at that time."""
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

    def refuse(self, uint64_t first, uint64_t count):
        """The server has said no to these publishes."""
        cdef uint64_t n
        if self.answer(first, count, True):
            for n in range(first * self.per_publish, (first + count) * self.per_publish):
                self.refused_sequences.add(n)

    def acknowledge(self, uint64_t first, uint64_t count):
        """An ACK that was read by Python."""
        self.answer(first, count, False)

    cdef bint answer(self, uint64_t first, uint64_t count, bint refused) except *:
        cdef int64_t now = _now_ns()
        cdef uint64_t n
        if first != self.answered or count > self.sent - first:
            self._tally.stray_acks += 1
            self._tally.example(f"publisher {self.number}: an answer to {count} publishes from {first} on, expected one to "
                                f"{self.answered}; {self.sent} were sent")
            return False
        if refused:
            self.refused += count
        else:
            self._tally.acknowledged += count * self.per_publish
            if self._tally.measuring:
                for n in range(first, first + count):
                    self._tally.ack_latency.add(<uint64_t>max(now - self._due[n & self._mask], 0) // 1000)
        self.answered += count
        if not self._waiting:
            self._waiting = True
            self._touched.append(self)
        return True

    def taken(self):
        """It is no longer in ``touched``."""
        self._waiting = False


@cython.final
cdef class Receiver(Sink):
    """One connection's messages. It stays the same when the connection is cut and resumed.

    Args:
        number: of the subscriber, for the report.
        channel: number of its channel; of ``channels``, to which publisher n publishes if n % channels is that number.
        publishers: how many there are in all; 0 for one that subscribes to nothing.
        publisher: whose ACKs come here, or None.
        keep_serial: remember the last channelSerial, to resume from it.
    """

    cdef readonly uint64_t number, channel, channels, received
    cdef readonly Publisher publisher
    cdef Tally _tally
    cdef uint64_t* _expected            # by publisher // channels
    cdef uint64_t _slots
    cdef dict _gaps                     # slot: [[from, to), ...] of numbers that have been passed over
    cdef bint _keep_serial
    cdef uint8_t _serial[LONGEST_SERIAL]
    cdef size_t _serial_size

    def __init__(self, Tally tally not None, uint64_t number, uint64_t channel, uint64_t channels, uint64_t publishers,
                 Publisher publisher, *, bint keep_serial=False):
        if self._expected is not NULL or channels == 0 or channel >= channels:
            raise ValueError("it is made once, for one of its channels")
        self._tally = tally
        self.number = number
        self.channel = channel
        self.channels = channels
        self._slots = (publishers - channel + channels - 1) // channels if publishers > channel else 0
        self._expected = <uint64_t*>calloc(self._slots + 1, sizeof(uint64_t))
        if self._expected is NULL:
            raise MemoryError("no memory for what is expected")
        self.publisher = publisher
        self._gaps = {}
        self._keep_serial = keep_serial

    def __dealloc__(self):
        free(self._expected)

    @property
    def channel_serial(self):
        """Of the newest message, or what ``start_from`` said; None: neither."""
        return (<const char*>self._serial)[:self._serial_size].decode() if self._serial_size else None

    def start_from(self, str serial not None):
        """Where the attachment begins, as ATTACHED told."""
        cdef bytes text = serial.encode()
        if len(text) <= LONGEST_SERIAL:
            memcpy(self._serial, <const char*>text, <size_t>len(text))
            self._serial_size = <size_t>len(text)

    def expected(self, uint64_t publisher):
        """The number that the next message of this publisher should have."""
        return self._expected[publisher // self.channels]

    def missing(self, uint64_t publisher):
        """What has been passed over and has not come: ``[(from, to), ...]``, ``to`` not included."""
        return [tuple(gap) for gap in self._gaps.get(publisher // self.channels, ())]

    def offer(self, bytes payload not None, bint binary):
        """A message that came as an event, because it came right behind one: True, if it was a delivery or an ACK."""
        return self.take(<const uint8_t*><const char*>payload, <size_t>len(payload), binary)

    cdef bint take(self, const uint8_t* data, size_t size, bint binary) except? True:
        cdef const uint8_t* at
        cdef size_t left = size
        cdef int64_t now
        if self._slots:
            at = <const uint8_t*>memmem(data, left, <const char*>self._tally._run, RUN_BYTES + 2)
            if at is not NULL:
                now = _now_ns()
                if self._keep_serial:
                    self._note_serial(data, size)
                while at is not NULL:
                    left = size - <size_t>(at - data)
                    if left < _MARK_BYTES:
                        break
                    self._deliver(at, now)
                    at = <const uint8_t*>memmem(at + _MARK_BYTES, left - _MARK_BYTES, <const char*>self._tally._run,
                                                RUN_BYTES + 2)
                return True
        return self.publisher is not None and self._take_ack(data, size, binary)

    cdef int _deliver(self, const uint8_t* mark, int64_t now) except -1:
        cdef uint64_t publisher, sequence, due, slot
        if (not _take_hex(mark + PUBLISHER_AT, PUBLISHER_DIGITS, &publisher)
                or not _take_hex(mark + SEQUENCE_AT, SEQUENCE_DIGITS, &sequence)
                or not _take_hex(mark + DUE_AT, DUE_DIGITS, &due)):
            self._tally.misplaced += 1
            self._tally.example(f"subscriber {self.number}: a damaged message")
            return 0
        slot = publisher // self.channels
        if publisher % self.channels != self.channel or slot >= self._slots:
            self._tally.misplaced += 1
            self._tally.example(f"subscriber {self.number}: message {sequence} of publisher {publisher}, not of its channel")
            return 0
        self.received += 1
        self._tally.delivered += 1
        if self._tally.measuring:
            self._tally.latency.add(<uint64_t>max(now - <int64_t>due, 0) // 1000)
        if sequence == self._expected[slot]:
            self._expected[slot] += 1
        else:
            self._odd(publisher, slot, sequence)
        return 0

    cdef int _odd(self, uint64_t publisher, uint64_t slot, uint64_t sequence) except -1:
        cdef Tally tally = self._tally
        cdef uint64_t expected = self._expected[slot]
        cdef list gaps, gap
        if sequence > expected:
            tally.missing += sequence - expected
            if tally._ranges < MOST_RANGES:
                tally._ranges += 1
                self._gaps.setdefault(slot, []).append([expected, sequence])
            else:
                tally.unlocated += sequence - expected
            tally.example(f"subscriber {self.number}: {sequence} of publisher {publisher} came where {expected} was due")
            self._expected[slot] = sequence + 1
            return 0
        gaps = self._gaps.get(slot, [])
        for gap in gaps:
            if gap[0] <= sequence < gap[1]:
                gaps.remove(gap)
                if gap[0] < sequence:
                    gaps.append([gap[0], sequence])
                if sequence + 1 < gap[1]:
                    gaps.append([sequence + 1, gap[1]])
                tally.missing -= 1
                tally.inversions += 1
                tally.example(f"subscriber {self.number}: {sequence} of publisher {publisher} came late")
                return 0
        tally.repeats += 1
        tally.example(f"subscriber {self.number}: {sequence} of publisher {publisher} came twice")
        return 0

    cdef void _note_serial(self, const uint8_t* data, size_t size) noexcept nogil:
        """The value that follows the key channelSerial, a short string in JSON or msgpack."""
        cdef const uint8_t* at = <const uint8_t*>memmem(data, size, b"channelSerial", 13)
        cdef size_t left, length
        if at is NULL:
            return
        at += 13
        left = size - <size_t>(at - data)
        if left > 3 and at[0] == 34 and at[1] == 58 and at[2] == 34:
            at += 3
            left -= 3
            length = 0
            while length < left and length < LONGEST_SERIAL and at[length] != 34:
                length += 1
        elif left > 1 and at[0] & 0xe0 == 0xa0:
            length = at[0] & 31
            at += 1
            left -= 1
        elif left > 2 and at[0] == 0xd9:
            length = at[1]
            at += 2
            left -= 2
        else:
            return
        if length <= left and length <= LONGEST_SERIAL:
            memcpy(self._serial, at, length)
            self._serial_size = length

    cdef bint _take_ack(self, const uint8_t* data, size_t size, bint binary) except? True:
        """The form in which this server writes it; others are read by Python."""
        cdef uint64_t first = 0, count = 0
        cdef size_t at
        if binary:
            if size < 28 or memcmp(data, b"\x84\xa6action\x01\xa9msgSerial", 19) != 0:
                return False
            at = 19
            if not _take_uint(data, size, &at, &first) or size - at < 7 or memcmp(data + at, b"\xa5count", 6) != 0:
                return False
            at += 6
            if not _take_uint(data, size, &at, &count):
                return False
        else:
            if size < 36 or memcmp(data, b'{"action":1,"msgSerial":', 24) != 0:
                return False
            at = 24
            if not _take_decimal(data, size, &at, &first) or size - at < 9 or memcmp(data + at, b',"count":', 9) != 0:
                return False
            at += 9
            if not _take_decimal(data, size, &at, &count):
                return False
        self.publisher.answer(first, count, False)
        return True


cdef bint _take_decimal(const uint8_t* data, size_t size, size_t* at, uint64_t* value) noexcept nogil:
    cdef size_t begin = at[0]
    value[0] = 0
    while at[0] < size and 48 <= data[at[0]] <= 57 and at[0] - begin < 18:
        value[0] = value[0] * 10 + <uint64_t>(data[at[0]] - 48)
        at[0] += 1
    return at[0] > begin and at[0] < size


cdef bint _take_uint(const uint8_t* data, size_t size, size_t* at, uint64_t* value) noexcept nogil:
    """A msgpack integer that is not negative."""
    cdef uint8_t kind
    cdef int length, i
    if at[0] >= size:
        return False
    kind = data[at[0]]
    at[0] += 1
    if kind < 128:
        value[0] = kind
        return True
    if not 0xcc <= kind <= 0xcf:
        return False
    length = 1 << (kind - 0xcc)
    if size - at[0] < <size_t>length:
        return False
    value[0] = 0
    for i in range(length):
        value[0] = value[0] << 8 | data[at[0]]
        at[0] += 1
    return True
