# cython: language_level=3
"""The receiving side of the load tester: finds marks in arriving messages, and compares them with the expected ones.

    bytes of a message -> marks -> for each publisher of the channel: the expected number?
                                   ahead of it: a gap      in a gap: late, and the gap is filled      else: a repeat

A receiver is the plane's sink: a delivery or an ACK in the usual form takes no Python object. It keeps gaps as ranges
of numbers. Numbers that the server has refused are not gaps, and are removed as soon as the refusal is known."""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy

from ext.text.json_input cimport take_whole
from ext.net.kernel cimport memmem, monotonic_ns
from ext.load.publisher cimport (DUE_AT, DUE_DIGITS, PUBLISHER_AT, PUBLISHER_DIGITS, RUN_BYTES, SEQUENCE_AT, SEQUENCE_DIGITS,
                       Publisher, Tally, _MARK_BYTES)
from ext.text.msgpack_input cimport I_STR, I_UINT, In, Item, read_item
from ext.load.ranges cimport Ranges
from ext.net.sink cimport Sink

from ext.load.publisher import MAX_EXAMPLES as _MAX_EXAMPLES

cdef enum:
    LONGEST_SERIAL = 128

cdef Py_ssize_t MAX_EXAMPLES = _MAX_EXAMPLES


cdef bint _take_hex(const uint8_t* at, int digits, uint64_t* value) noexcept nogil:
    cdef int i
    cdef uint8_t c
    value[0] = 0
    for i in range(digits):
        c = at[i]
        if c'0' <= c <= c'9':
            value[0] = value[0] << 4 | <uint64_t>(c - c'0')
        elif c'a' <= c <= c'f':
            value[0] = value[0] << 4 | <uint64_t>(c - c'a' + 10)
        else:
            return False
    return True


cdef inline const uint8_t* _find_mark(const uint8_t* data, size_t size, const uint8_t* beginning) noexcept nogil:
    """The first mark of this run, or the remains of one; NULL: none. (memmem takes five times as long.)"""
    cdef const uint8_t* end = data + size
    cdef const uint8_t* at = <const uint8_t*>memchr(data, c'~', size)
    while at is not NULL:
        if end - at < RUN_BYTES + 2:
            return NULL
        if memcmp(at, beginning, RUN_BYTES + 2) == 0:
            return at
        at = <const uint8_t*>memchr(at + 1, c'~', <size_t>(end - at - 1))
    return NULL


@cython.final
cdef class Receiver(Sink):
    """The messages of one connection. The receiver remains when the connection is cut and resumed.

    Args:
        number: of the subscriber, for the report.
        channel: number of its channel; of ``channels``, to which publisher n publishes if n % channels is that number.
        publishers: their total number; 0 for a receiver that subscribes to nothing.
        publisher: the publisher whose ACKs come here, or None.
        keep_serial: remember the last channelSerial, to resume from it.
    """

    cdef readonly uint64_t number, channel, channels, received
    cdef readonly Publisher publisher
    cdef Tally _tally
    cdef uint64_t* _expected            # by slot: publisher // channels
    cdef uint64_t* _forgiven            # by slot: numbers skipped because they were refused
    cdef uint64_t _slots
    cdef dict _gaps                     # slot: Ranges of numbers that were skipped
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
        self._forgiven = <uint64_t*>calloc(self._slots + 1, sizeof(uint64_t))
        if self._expected is NULL or self._forgiven is NULL:
            raise MemoryError("no memory for what is expected")
        self.publisher = publisher
        self._gaps = {}
        self._keep_serial = keep_serial

    def __dealloc__(self):
        free(self._expected)
        free(self._forgiven)

    @property
    def channel_serial(self):
        """That of the newest message, or the one given to ``start_from``; None: neither."""
        return (<const char*>self._serial)[:self._serial_size].decode() if self._serial_size else None

    def start_from(self, str serial not None):
        """The beginning of the attachment, from ATTACHED."""
        cdef bytes text = serial.encode()
        if len(text) <= LONGEST_SERIAL:
            memcpy(self._serial, <const char*>text, <size_t>len(text))
            self._serial_size = <size_t>len(text)

    def expected(self, uint64_t publisher):
        """The number that the next message of this publisher should have."""
        return self._expected[publisher // self.channels]

    def missing(self, uint64_t publisher):
        """Numbers that were skipped, have not come, and are not known to be refused: ``[(from, to), ...]``."""
        gaps = self._gaps.get(publisher // self.channels)
        return list(gaps) if gaps is not None else []

    def forgiven(self, uint64_t publisher):
        """How many were skipped because they had been refused."""
        return self._forgiven[publisher // self.channels]

    def forgive(self):
        """Remove gaps that are refusals. Call it from time to time, and at the end."""
        cdef uint64_t slot, count
        cdef Ranges gaps
        cdef Publisher publisher
        for slot, gaps in self._gaps.items():
            publisher = self._tally.publishers.get(slot * self.channels + self.channel)
            if publisher is not None and len(gaps):
                self._tally.ranges -= len(gaps)
                count = gaps.subtract(publisher.refused_messages)
                self._tally.ranges += len(gaps)
                self._forgiven[slot] += count
                self._tally.missing -= count

    def offer(self, bytes payload not None, bint binary):
        """A message that came as an event, because it directly followed one. True, if it was a delivery or an ACK."""
        return self.take(<const uint8_t*><const char*>payload, <size_t>len(payload), binary)

    cdef bint take(self, const uint8_t* data, size_t size, bint binary) except -1:
        cdef const uint8_t* needle = <const uint8_t*><const char*>self._tally.mark
        cdef const uint8_t* at
        cdef size_t left = size
        cdef int64_t now
        if self._slots:
            at = _find_mark(data, left, needle)
            if at is not NULL:
                now = monotonic_ns()
                if self._keep_serial:
                    self._note_serial(data, size)
                while at is not NULL:
                    left = size - <size_t>(at - data)
                    if left < _MARK_BYTES:
                        break
                    self._deliver(at, now)
                    at = _find_mark(at + _MARK_BYTES, left - _MARK_BYTES, needle)
                return True
        return self.publisher is not None and self._take_ack(data, size, binary)

    cdef int _deliver(self, const uint8_t* mark, int64_t now) except -1:
        cdef uint64_t publisher, sequence, due, slot
        if (not _take_hex(mark + PUBLISHER_AT, PUBLISHER_DIGITS, &publisher)
                or not _take_hex(mark + SEQUENCE_AT, SEQUENCE_DIGITS, &sequence)
                or not _take_hex(mark + DUE_AT, DUE_DIGITS, &due)):
            self._tally.misplaced += 1
            if len(self._tally.examples) < MAX_EXAMPLES:
                self._tally.examples.append(f"subscriber {self.number}: a damaged message")
            return 0
        slot = publisher // self.channels
        if publisher % self.channels != self.channel or slot >= self._slots:
            self._tally.misplaced += 1
            return self._example(publisher, sequence, "came, which is not of its channel")
        self.received += 1
        self._tally.delivered += 1
        if self._tally.measure_from <= <int64_t>due < self._tally.measure_to:
            self._tally.latency.add(<uint64_t>max(now - <int64_t>due, 0) // 1000)
        if sequence == self._expected[slot]:
            self._expected[slot] += 1
        else:
            self._odd(publisher, slot, sequence)
        return 0

    cdef int _odd(self, uint64_t publisher, uint64_t slot, uint64_t sequence) except -1:
        cdef Tally tally = self._tally
        cdef uint64_t expected = self._expected[slot]
        cdef Ranges gaps = self._gaps.get(slot)
        cdef Publisher sender
        if sequence > expected:
            if tally.ranges < tally.max_ranges:
                if gaps is None:
                    gaps = self._gaps[slot] = Ranges()
                tally.ranges -= len(gaps)
                gaps.append(expected, sequence)
                tally.ranges += len(gaps)
                tally.missing += sequence - expected
            else:
                tally.unlocated += sequence - expected
            self._expected[slot] = sequence + 1
            return 0
        if gaps is not None:
            tally.ranges -= len(gaps)
            late = gaps.discard(sequence)
            tally.ranges += len(gaps)
            if late:
                tally.missing -= 1
                tally.inversions += 1
                return self._example(publisher, sequence, "came late")
        sender = tally.publishers.get(publisher)
        if sender is not None and sender.refused_messages.has(sequence):
            tally.refused_deliveries += 1
            return self._example(publisher, sequence, "came although it had been refused")
        tally.repeats += 1
        return self._example(publisher, sequence, "came twice")

    cdef int _example(self, uint64_t publisher, uint64_t sequence, str what) except -1:
        if len(self._tally.examples) < MAX_EXAMPLES:
            self._tally.examples.append(f"subscriber {self.number}: {sequence} of publisher {publisher} {what}")
        return 0

    cdef void _note_serial(self, const uint8_t* data, size_t size) noexcept nogil:
        """Store the value after the key channelSerial, a short string in JSON or msgpack."""
        cdef const uint8_t* at = <const uint8_t*>memmem(data, size, b"channelSerial", 13)
        cdef size_t length = 0
        cdef In source
        cdef Item item
        if at is NULL:
            return
        source.data = at + 13
        source.size = size - <size_t>(at + 13 - data)
        source.at = 0
        if source.size > 3 and memcmp(source.data, b'":"', 3) == 0:
            item.data = source.data + 3
            while length < source.size - 3 and length < LONGEST_SERIAL and item.data[length] != 34:
                length += 1
        elif read_item(&source, &item) == I_STR:
            length = item.size
        else:
            return
        if length <= LONGEST_SERIAL:
            memcpy(self._serial, item.data, length)
            self._serial_size = length

    cdef bint _take_ack(self, const uint8_t* data, size_t size, bint binary) except -1:
        """An ACK in the form that this server writes; Python reads others."""
        cdef uint64_t first = 0, count = 0
        cdef In source
        source.data = data
        source.size = size
        if binary:
            if not (_skip(&source, 0, b"\x84\xa6action\x01\xa9msgSerial", 19) and _take_uint(&source, &first)
                    and _skip(&source, source.at, b"\xa5count", 6) and _take_uint(&source, &count)):
                return False
        elif not (_skip(&source, 0, b'{"action":1,"msgSerial":', 24) and take_whole(&source, &first)
                  and _skip(&source, source.at, b',"count":', 9) and take_whole(&source, &count)):
            return False
        self.publisher.answer(first, count, False)
        return True


cdef bint _skip(In* source, size_t at, const char* words, size_t size) noexcept nogil:
    """Skip these bytes, if they are at index ``at``."""
    if source.size - at < size or memcmp(source.data + at, words, size) != 0:
        return False
    source.at = at + size
    return True


cdef bint _take_uint(In* source, uint64_t* value) noexcept nogil:
    cdef Item item
    if read_item(source, &item) != I_UINT:
        return False
    value[0] = item.number
    return True
