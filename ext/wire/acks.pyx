# cython: language_level=3
"""The answers to a client's publishes: exactly one ACK or NACK for each, in the order of their msgSerials.

    publishes   7      8      9      10           each a Receipt, in order of arrival
    outcome     stored stored  ?     refused      entries are stored in any order: channels differ
    sent        ACK 7, count 2 | waits for 9

A run of stored publishes gets one ACK, of a size that every client accepts. Unanswered publishes count against the
connection's bound (``bytes``). A queue with answers to send appends itself, once, to a list that all queues share; the
sender iterates over it."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free
from libc.stddef cimport size_t
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t

from ext.text.output cimport Out, out_init
from ext.wire.encoder cimport put_ack_end, put_ack_head, put_ack_place

cdef enum:
    ACK_ROOM = 256              # for an ACK; most fit at once
    # Serials in one ACK, about 50 bytes each. 20,000 in one frame would exceed the limit of many clients (1 MiB).
    MAX_SERIALS = 1000
    RECEIPT_BYTES = 256         # cost of a publish until it is answered, however small it is


@cython.final
@cython.freelist(2048)
@cython.trashcan(True)          # a long queue would be freed recursively, each receipt by the one before it
cdef class Receipt:
    """One publish that waits for its outcome. One of the two methods is called, once. Made by ``AckQueue.expect``."""

    def accepted(self, uint64_t serial, str series not None, uint32_t index, uint32_t count):
        """Stored: its messages have ``serial``, from ``index`` on."""
        self.store(serial, series, index, count)

    def refused(self, error not None):
        """Not stored, because of this error."""
        if isinstance(error, BaseException):
            error.__traceback__ = None          # its frames refer to us and to the publish: a cycle for each refusal
        self._error = error
        self._queue.touch()

    cdef int store(self, uint64_t serial, str series, uint32_t first, uint32_t count) except -1:
        self._serial = serial
        self._series = series
        self._first = first
        self._count = count
        return self._queue.touch()


@cython.final
cdef class AckQueue:
    """The unanswered publishes of one connection. ``bytes`` is their size, including a fixed cost for each.

    ``owner`` and ``transport`` are for the sender: the owner of the queue, and the destination of its answers.
    ``paused``: the owner wants to be asked after each answer, because it has stopped reading.
    """

    def __cinit__(self, int format, list touched not None):
        if format not in (0, 1):
            raise ValueError(f"format must be JSON (0) or MSGPACK (1), got {format}")
        self.format = format
        self.max_bytes = UINT64_MAX
        self._touched_list = touched

    def __len__(self):
        return self._length

    @property
    def full(self):
        """Does ``bytes`` exceed ``max_bytes``?"""
        return self.is_full()

    def expect(self, uint64_t msg_serial, uint32_t size):
        """A publish of this size has arrived; its answer is sent in its turn."""
        return self.push(msg_serial, size)

    def take(self):
        """All answers whose turn has come, in order: ACKs as payloads, refusals as ``(msgSerial, error)``."""
        cdef list answers = []
        cdef Receipt receipt
        cdef Out out
        self._touched = False
        while self._first is not None:
            if self._first._error is not None:
                receipt = self._pop()
                answers.append((receipt.msg_serial, receipt._error))
            elif self._first._series is not None:
                out_init(&out, ACK_ROOM)
                try:
                    self.put_run(&out)
                    answers.append(PyBytes_FromStringAndSize(<char*>out.data, <Py_ssize_t>out.size))
                finally:
                    PyMem_Free(out.data)
            else:
                break
        return answers

    cdef Receipt push(self, uint64_t msg_serial, uint32_t size):
        cdef Receipt receipt = Receipt.__new__(Receipt)
        receipt._queue = self
        receipt.msg_serial = msg_serial
        receipt._size = size
        if self._last is None:
            self._first = receipt
        else:
            self._last._next = receipt
        self._last = receipt
        self._length += 1
        self.bytes += size + RECEIPT_BYTES
        return receipt

    cdef int touch(self) except -1:
        if not self._touched:
            self._touched = True
            self._touched_list.append(self)
        return 0

    cdef bint plain(self):
        """Are only ACKs to be sent now, and is the owner not to be asked? Then call ``put_run`` until it returns 0."""
        return not self.paused and (self._first is None or self._first._error is None)

    cdef int put_run(self, Out* out) except -1:
        """Write one ACK for the run of stored publishes at the front; 0: none. Call ``plain`` again then."""
        cdef Receipt receipt = self._first
        cdef uint32_t count = 0, serials = 0, i
        cdef uint64_t expected
        self._touched = False
        if receipt is None or receipt._series is None:
            return 0
        expected = receipt.msg_serial
        while receipt is not None and receipt._series is not None and receipt.msg_serial == expected:
            serials += receipt._count
            if serials > MAX_SERIALS and count:
                break
            count += 1
            expected += 1
            receipt = receipt._next
        put_ack_head(out, self.format, self._first.msg_serial, count)
        for i in range(count):
            receipt = self._first
            put_ack_place(out, self.format, i > 0, receipt._serial, receipt._series, receipt._first, receipt._count)
            self._pop()
        put_ack_end(out, self.format)
        if out.failed:
            raise MemoryError("no memory for an acknowledgement")
        return 1

    cdef Receipt _pop(self):
        cdef Receipt receipt = self._first
        self._first = receipt._next
        receipt._next = None            # else a long queue would be freed recursively
        if self._first is None:
            self._last = None
        self._length -= 1
        self.bytes -= receipt._size + RECEIPT_BYTES
        return receipt
