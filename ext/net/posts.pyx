# cython: language_level=3
"""Plain connections that publish over HTTP, one request after the other, without a task for each.

    recv -> head and body complete? -> usual kind? -> permitted before? -> plain? -> staged
                 |                         |                 |                |
                 | waits, in its inbox     | no: it leaves   +------ no ------+---> asked: Python decides the answer
                 +-- too long: it leaves
    stored -> accepted -> flush: the answer, in one send -> the next request

A connection (ext/net/caller.pyx) has one request in progress; later input waits in its inbox. A connection that leaves
is handed up with all its unanswered bytes, to the full HTTP server, and does not come back. So this module refuses
nothing by itself, except a request that is incomplete and late (ext/net/patience.pxd) or exceeds the server's memory
for incomplete input (ext/net/room.pyx): Python makes the response. Nothing here blocks. It calls Python only for the
answer to a failure."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport strerror

from ext.net.caller cimport (CLOSED, ENDING, ENDS, GOES_ON, KNOWN, LEAVES, NOTHING, QUEUED, READING, SENDING,
                             Caller, Move, new_caller)
from ext.net.http_head cimport Head, headers_of
from ext.net.http_request cimport UNUSUAL, WHOLE, Found
from ext.net.kernel cimport (EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLL_CLOEXEC, c_close, epoll_create1, epoll_event,
                             epoll_wait)
from ext.net.patience cimport LATE, OVER, Lateness, Patience, lateness
from ext.net.permit cimport Permit, Place
from ext.net.permits cimport Permits
from ext.net.room cimport Room
from ext.text.output cimport Out, out_init

cdef enum:
    LOOKS = 8                   # at ready connections, one after the other while each finds something
    READY_EVENTS = 256
    RECEIVE_BYTES = 128 * 1024
    OUT_ROOM = 4096
    OUT_KEPT = 64 * 1024


@cython.final
cdef class Posts:
    """All such connections. ``fd`` is readable when there is something to ``poll`` for."""

    cdef readonly int fd
    cdef set _callers
    cdef list _told, _ready, _leaving, _asks, _turned_away
    cdef Room _room                 # counts incomplete input
    cdef public list failures       # bugs that have ended connections
    cdef readonly Permits permits
    cdef uint8_t* _buffer
    cdef Out _out
    cdef uint32_t _max_connections
    cdef size_t _head_bytes, _body_bytes
    cdef Patience _patience
    cdef int64_t _now, _wall
    cdef bint _draining, _answers_late
    cdef readonly uint64_t taken, served, asked     # connections; requests without Python, and with it

    def __cinit__(self, *, uint32_t max_connections, size_t head_bytes, size_t body_bytes, int64_t idle_ms,
                  int64_t patience_ms, int64_t response_ms, Room room=None, bint answers_late=False):
        """
        Args:
            room: counts incomplete input, and may be shared.
            max_connections: further ones are not taken.
            body_bytes: a request with a larger body leaves.
            idle_ms: for the next request to begin; patience_ms: for it to be complete, else it leaves, or is refused
                here if ``answers_late``; response_ms: for the peer to take an answer.
        """
        self.limit(head_bytes=head_bytes, body_bytes=body_bytes)
        self.fd = epoll_create1(EPOLL_CLOEXEC)
        if self.fd < 0:
            raise OSError(errno, "epoll_create1: " + strerror(errno).decode())
        self._max_connections = max_connections
        self._patience = Patience(idle_ms, patience_ms, response_ms)
        self._answers_late = answers_late
        self._callers = set()
        self._told = []
        self._ready = []
        self._leaving = []
        self._asks = []
        self._turned_away = []
        self._room = room if room is not None else Room(UINT64_MAX)
        self.failures = []
        self.permits = Permits()
        self._buffer = <uint8_t*>PyMem_Malloc(RECEIVE_BYTES)
        out_init(&self._out, OUT_ROOM)
        if self._buffer is NULL or self._out.failed:
            raise MemoryError("no memory for the buffers of requests")

    def __dealloc__(self):
        PyMem_Free(self._buffer)
        PyMem_Free(self._out.data)
        if self.fd >= 0:
            c_close(self.fd)

    def limit(self, *, size_t head_bytes, size_t body_bytes):
        """Change the limits."""
        if not 0 < head_bytes <= 1 << 24 or not 0 < body_bytes <= 1 << 24:
            raise ValueError("head_bytes and body_bytes must be above 0 and reasonable")
        self._head_bytes = head_bytes
        self._body_bytes = body_bytes

    def __len__(self):
        return len(self._callers)

    @property
    def waiting(self):
        """Is there something to ``poll`` for that ``fd`` does not show?"""
        return bool(self._ready) or bool(self._leaving) or bool(self._turned_away)

    @property
    def due(self):
        """Is there an answer to ``flush``, or something to ``poll`` for that ``fd`` does not show?"""
        return bool(self._told) or self.waiting

    def take(self, int fd, bytes received not None, str peer not None, bint trusted, int64_t now_ms):
        """Serve this connection, which has sent ``received`` so far, and own ``fd``. Returns False if it can't.

        Args:
            trusted: a key may be sent over it.
        """
        cdef Caller caller
        if self._draining or <uint32_t>len(self._callers) >= self._max_connections:
            return False
        caller = new_caller(self._told, self._room, peer, trusted, now_ms)
        fits = caller.hold(<const uint8_t*><const char*>received, <size_t>len(received), False)
        if not caller.enter(self.fd, fd):
            return False
        self._callers.add(caller)
        self.taken += 1
        if not fits:
            self._turn_away(caller, received[:self._head_bytes], False)
        elif caller.state == QUEUED:
            self._ready.append(caller)
        return True

    def poll(self, int64_t now_ms, int64_t wall_ms):
        """Read what has arrived. Returns the requests for Python to answer: (caller, key, target, headers, body).

        It also reads what arrives during the reading: clients that were answered together come back one after the
        other, and their publishes can share a batch.

        Args:
            now_ms: of a monotonic clock, as everywhere here; wall_ms: of the clock by which permits end.
        ``key`` is the key under which to grant a permit for such requests.
        """
        cdef epoll_event ready[READY_EVENTS]
        cdef Caller caller
        cdef list queued = self._ready, batch = []
        cdef uint64_t before
        cdef int i, n, looks = 0
        self._now = now_ms
        self._wall = wall_ms
        if queued:
            self._ready = []
            for caller in queued:
                if caller.state == QUEUED:
                    self._look_at(caller, 0)
        while looks < LOOKS:
            looks += 1
            before = self.served
            n = epoll_wait(self.fd, ready, READY_EVENTS, 0)
            for i in range(n):          # alive until the batch is done, whatever happens to it
                batch.append(<object>ready[i].data.ptr)
            for i in range(n):
                caller = batch[i]
                self._look_at(caller, ready[i].events)
            if self.served == before or self._asks:
                break
            batch.clear()
        asks, self._asks = self._asks, []
        return asks

    def flush(self, date):
        """Send the answers that have come. Returns the number of 201 responses as (app id, number), for each permit.

        Args:
            date: a function that returns the value of the Date header.
        """
        cdef Caller caller
        cdef Permit permit
        cdef list told, permits = []
        cdef bytes day
        if not self._told:
            return permits
        day = date()
        while self._told:
            told = self._told[:]
            self._told.clear()          # all callers hold this list
            for caller in told:
                if caller.state != KNOWN:
                    continue
                try:
                    permit = self._answer(caller, day)
                    if permit is not None and permit.answered == 1:     # its first one in this flush
                        permits.append(permit)
                except Exception as error:
                    self.failures.append(error)
                    self._close(caller)
        told = []
        for permit in permits:
            told.append((permit.app_id, permit.answered))
            permit.answered = 0
        return told

    def hand_over(self, Caller caller not None):
        """Let it leave, with all its unanswered bytes."""
        if caller.state == CLOSED:
            return
        held = caller.held(<size_t>-1)
        self._callers.discard(caller)
        self._leaving.append((caller.leave(), held, max(0, self._now - caller.since_ms)))

    def take_leaving(self):
        """Connections that have left: (descriptor, bytes, age of its request in ms). The caller closes descriptors."""
        leaving, self._leaving = self._leaving, []
        return leaving

    def take_turned_away(self, Py_ssize_t max_count):
        """Some of those to be refused: (caller, the beginning of its input, is it late?). If not late, it exceeds the
        memory."""
        found, self._turned_away = self._turned_away[:max_count], self._turned_away[max_count:]
        return found

    def refuse(self, Caller caller not None, bytes response not None):
        """Send this complete response to one of them, and end it."""
        if caller.state == ENDING:
            self._do(caller, caller.refuse(response))

    def tick(self, int64_t now_ms, int64_t idle_ms=-1):
        """End or refuse slow connections. Call it about once a second. ``idle_ms``: replaces the usual limit."""
        cdef Patience patience = self._patience
        cdef Caller caller
        cdef Lateness late
        self._now = now_ms
        if idle_ms >= 0:
            patience.idle_ms = idle_ms
        for caller in list(self._callers):
            late = lateness(&patience, caller, now_ms)
            if late == OVER:
                self._close(caller)
            elif late == LATE and self._answers_late:
                self._turn_away(caller, caller.held(self._head_bytes), True)
            elif late == LATE:
                self.hand_over(caller)

    def drain(self):
        """Take no more connections. Idle ones are closed. Those without an answer to come leave, and the rest end after
        their answers."""
        cdef Caller caller
        self._draining = True
        for caller in list(self._callers):
            if caller.is_reading():
                if caller.is_empty():
                    self._close(caller)
                else:
                    self.hand_over(caller)

    def close(self):
        """End every connection at once."""
        cdef Caller caller
        self._draining = True
        for caller in list(self._callers):
            self._close(caller)

    # private

    cdef int _look_at(self, Caller caller, uint32_t events) except -1:
        """Handle the events of one connection; 0: process its input only."""
        try:
            if events == 0:
                self._consider_held(caller)
            elif caller.state == ENDING:
                self._do(caller, caller.linger(events, self._buffer, RECEIVE_BYTES))
            else:
                if caller.state == SENDING and events & EPOLLOUT:
                    self._do(caller, caller.send_more(self._draining, self._now))
                if caller.state != CLOSED and events & (EPOLLIN | EPOLLHUP | EPOLLERR):
                    self._receive(caller, events & (EPOLLHUP | EPOLLERR))
        except Exception as error:
            self.failures.append(error)
            self._close(caller)
        return 0

    cdef int _do(self, Caller caller, Move move) except -1:
        if move == GOES_ON:
            self._ready.append(caller)
        elif move == LEAVES:
            self.hand_over(caller)
        elif move == ENDS:
            self._close(caller)
        return 0

    cdef int _receive(self, Caller caller, bint broken) except -1:
        cdef ssize_t size = caller.receive(self._buffer, RECEIVE_BYTES)
        if size > 0:
            if caller.state == READING and caller.is_empty():
                self._consider(caller, <size_t>size)
            elif not caller.hold(self._buffer, <size_t>size, False):
                self._turn_away(caller, caller.held(self._head_bytes), False)
            elif caller.state == READING:
                self._consider_held(caller)
            caller.pause_if_ahead()
        elif size != NOTHING:
            self._do(caller, caller.meet_end(broken or size < 0, self._answers_late))
        elif broken:
            self._close(caller)
        return 0

    cdef int _consider(self, Caller caller, size_t size) except -1:
        """The first bytes of a request are in the buffer. A complete and plain request is never copied."""
        cdef Head head
        cdef size_t done = 0
        cdef Found found
        caller.begin(self._now)
        found = caller.read(self._buffer, size, self._head_bytes, self._body_bytes, &head)
        if found == WHOLE:
            done = self._begin(caller, &head)
        if not caller.hold(self._buffer + done, size - done, found == UNUSUAL):
            begun = PyBytes_FromStringAndSize(<char*>self._buffer, <Py_ssize_t>min(size, self._head_bytes))
            self._turn_away(caller, begun, False)
        elif found == UNUSUAL:
            self.hand_over(caller)
        return 0

    cdef int _consider_held(self, Caller caller) except -1:
        cdef Head head
        cdef Found found = caller.read_held(self._head_bytes, self._body_bytes, &head)
        if found == WHOLE:
            caller.drop(self._begin(caller, &head))
        elif found == UNUSUAL:
            self.hand_over(caller)
        else:
            self._do(caller, caller.await_more(self._answers_late))
        return 0

    cdef size_t _begin(self, Caller caller, Head* head) except? 0:
        """Stage the publish of a complete request, or ask Python. Returns the number of bytes processed; bytes of a
        request that Python is asked about do not count."""
        cdef bytes key = self.permits.key_of(head, caller.trusted), message_id
        cdef Permit permit = self.permits.good(key, self._wall)
        cdef Place place = None
        if permit is not None:
            place = permit.place(&head.target)
        if place is not None:
            message_id = permit.stage(place, head.body, head.length, caller)
            if message_id is not None:
                caller.staged(permit, place, message_id, permit.named)
                self.served += 1
                return head.size + head.length
        caller.ask(head.size + head.length)
        self.asked += 1
        target = PyUnicode_DecodeASCII(<const char*>head.target.data, <Py_ssize_t>head.target.size, NULL)
        self._asks.append((caller, key, target, headers_of(head),
                           PyBytes_FromStringAndSize(<const char*>head.body, <Py_ssize_t>head.length)))
        return 0

    cdef int _turn_away(self, Caller caller, bytes begun, bint late) except -1:
        """Its request exceeds the memory, or is ``late``. ``begun``: the beginning of the request."""
        caller.turn_away(self._now)
        self._turned_away.append((caller, begun, late))
        return 0

    cdef Permit _answer(self, Caller caller, bytes date):
        """Send the answer. Returns the permit, if it says that a publish is stored."""
        cdef Permit permit
        self._out.size = 0
        try:
            permit = caller.write_answer(&self._out, date, self._draining)
            self._do(caller, caller.send(self._out.data, self._out.size, self._draining, self._now))
        finally:
            if self._out.failed or self._out.room > OUT_KEPT:
                PyMem_Free(self._out.data)
                out_init(&self._out, OUT_ROOM)
        return permit

    cdef void _close(self, Caller caller):
        if caller.state != CLOSED:
            self._callers.discard(caller)
            caller.close()
