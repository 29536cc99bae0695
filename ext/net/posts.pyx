# cython: language_level=3
"""Plain connections that publish over HTTP, one request after the other, without a task each.

    recv -> head and body whole? -> the usual kind? -> permitted before? -> plain? -> staged
                 |                      |                   |                |
                 | waits, in ``held``   | no: it leaves     +------ no ------+---> asked: Python says what to answer
                 +-- too long: it leaves
    stored -> accepted -> flush: the answer, in one send -> the next request

    READING --a whole request--> ASKED --outcome--> (SENDING, while the peer does not take it all) --> READING
       +--no room, late--> ENDING: Python says how it is told, and what it still sends is thrown away for a moment

A connection has one request under way; what comes behind it waits in its bytes. Whoever leaves is handed up with all the
bytes that have not been answered, for those who know HTTP as a whole; it does not come back. So this room refuses nothing
by itself, but half a request that is late, or for which the server has no room (ext/net/room.pyx). Nothing here blocks; it calls up only for the answer that tells a failure."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stddef cimport size_t
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, strerror

from ext.net.caller cimport ASKED, CLOSED, ENDING, READING, SENDING, Caller
from ext.net.http_head cimport H_DECIDING, Head, headers_of, read_head
from ext.net.kernel cimport (EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL,
                         EPOLL_CTL_MOD, IPPROTO_TCP, MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, TCP_NODELAY, c_close, c_recv,
                         c_send, c_shutdown, epoll_create1, epoll_ctl, epoll_event, epoll_wait, setsockopt)
from ext.text.output cimport Out, out_init, put, put_byte
from ext.net.permit cimport Permit, Place
from ext.net.room cimport Room

cdef extern from "<string.h>" nogil:
    void* memmem(const void* haystack, size_t length, const char* needle, size_t size)

cdef enum:
    LOOKS = 8               # at what is ready, one after the other while each finds something
    READY_EVENTS = 256
    RECEIVE_BYTES = 128 * 1024
    BEHIND_BYTES = 64 * 1024    # that are read beyond a request which is under way; the rest waits in the kernel
    MAX_PERMITS = 1000          # then they are asked for anew
    OUT_ROOM = 4096
    OUT_KEPT = 64 * 1024
    LINGER_MS = 2_000           # that one is read from which has been refused: closing at once would take the answer along
    LINGER_BYTES = 4 * 1024 * 1024

    LEAVES = -2                 # what _consider says of those that are for others


@cython.final
cdef class Posts:
    """All of them. ``fd`` is readable when there is something to ``poll`` for."""

    cdef readonly int fd
    cdef list _callers, _told, _ready, _leaving, _asks, _turned_away
    cdef Room _room                 # for all that has come in part
    cdef public list failures       # bugs that have ended connections
    cdef dict _permits
    cdef uint8_t* _buffer
    cdef Out _out, _key
    cdef uint32_t _max_connections
    cdef size_t _head_bytes, _body_bytes
    cdef int64_t _idle_ms, _patience_ms, _response_ms, _now, _wall
    cdef bint _draining, _answers_late
    cdef readonly uint64_t taken, served, asked     # connections; requests without Python, and with it

    def __cinit__(self, *, uint32_t max_connections, size_t head_bytes, size_t body_bytes, int64_t idle_ms,
                  int64_t patience_ms, int64_t response_ms, Room room=None, bint answers_late=False):
        """
        Args:
            room: for what has come in part, which others may share.
            max_connections: who comes with one more is not taken.
            body_bytes: a request with a larger body leaves.
            idle_ms: for the next request to begin; patience_ms: for it to be whole, then it leaves, or is refused here if
                this room ``answers_late``; response_ms: for the peer to take an answer.
        """
        self.limit(head_bytes=head_bytes, body_bytes=body_bytes)
        self.fd = epoll_create1(EPOLL_CLOEXEC)
        if self.fd < 0:
            raise OSError(errno, "epoll_create1: " + strerror(errno).decode())
        self._max_connections = max_connections
        self._idle_ms = idle_ms
        self._patience_ms = patience_ms
        self._response_ms = response_ms
        self._answers_late = answers_late
        self._callers = []
        self._told = []
        self._ready = []
        self._leaving = []
        self._asks = []
        self._turned_away = []
        self._room = room if room is not None else Room(UINT64_MAX)
        self.failures = []
        self._permits = {}
        self._buffer = <uint8_t*>PyMem_Malloc(RECEIVE_BYTES)
        out_init(&self._out, OUT_ROOM)
        out_init(&self._key, OUT_ROOM)
        if self._buffer is NULL or self._out.failed or self._key.failed:
            raise MemoryError("no memory for the buffers of requests")

    def __dealloc__(self):
        PyMem_Free(self._buffer)
        PyMem_Free(self._out.data)
        PyMem_Free(self._key.data)
        if self.fd >= 0:
            c_close(self.fd)

    def limit(self, *, size_t head_bytes, size_t body_bytes):
        """From now on these hold."""
        if not 0 < head_bytes <= 1 << 24 or not 0 < body_bytes <= 1 << 24:
            raise ValueError("head_bytes and body_bytes must be above 0 and reasonable")
        self._head_bytes = head_bytes
        self._body_bytes = body_bytes

    def __len__(self):
        return len(self._callers)

    @property
    def waiting(self):
        """Is there something to ``poll`` for that ``fd`` does not tell?"""
        return bool(self._ready) or bool(self._leaving) or bool(self._turned_away)

    def take(self, int fd, bytes received not None, str peer not None, bint trusted, int64_t now_ms):
        """Serve this connection from now on (``fd`` is ours to close then), which has sent ``received`` so far; or False.

        Args:
            trusted: a key may come over it.
        """
        cdef Caller caller
        cdef int one = 1
        cdef epoll_event event
        if self._draining or <uint32_t>len(self._callers) >= self._max_connections:
            return False
        caller = Caller.__new__(Caller)
        caller._told = self._told
        caller._all = self._room
        caller._fd = -1
        caller.peer = peer
        caller.trusted = trusted
        caller._since_ms = now_ms
        caller._mask = EPOLLIN
        event.events = EPOLLIN
        event.data.ptr = <void*>caller
        fits = caller.append(<const uint8_t*><const char*>received, <size_t>len(received), False)
        if epoll_ctl(self.fd, EPOLL_CTL_ADD, fd, &event) < 0:
            return False
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        caller._fd = fd
        caller._at = <uint32_t>len(self._callers)
        self._callers.append(caller)
        self.taken += 1
        if not fits:
            self._turn_away(caller, <const uint8_t*><const char*>received, <size_t>len(received), False)
        elif received:
            self._queue(caller)
        return True

    def poll(self, int64_t now_ms, int64_t wall_ms):
        """Read what has arrived. Returns those that Python has to answer: (caller, key, target, headers, body).

        Who sends while others are read is read as well: those who were answered together come back one after the
        other, and what they publish can be in one batch.

        Args:
            now_ms: of a clock that only grows, as everywhere here; wall_ms: of the one by which permits end.
        ``key`` is what a permit for such requests is to be known by.
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
                caller._queued = False
                if caller._state == READING and caller._used:
                    self._look_at(caller, 0)
        while looks < LOOKS:
            looks += 1
            before = self.served
            n = epoll_wait(self.fd, ready, READY_EVENTS, 0)
            for i in range(n):          # alive until the batch is through, whatever happens to it
                batch.append(<object>ready[i].data.ptr)
            for i in range(n):
                caller = batch[i]
                self._look_at(caller, ready[i].events)
            if self.served == before or self._asks:
                break
            batch.clear()
        asks, self._asks = self._asks, []
        return asks

    def permit(self, bytes key not None):
        """What was granted under this key and is still good, or None."""
        return self._permits.get(key)

    def grant(self, bytes key not None, Permit permit not None):
        """Requests with this key may be served by this permit."""
        if len(self._permits) >= MAX_PERMITS:
            self._permits = {}
        self._permits[key] = permit

    def revoke_all(self):
        """No permit is good any more."""
        self._permits = {}

    def flush(self, date):
        """Send the answers that have come. Returns how many were told 201: (app id, number) for each permit.

        Args:
            date: a function that gives the value of the Date header.
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
            self._told.clear()          # the list itself is known to all of them
            for caller in told:
                caller._touched = False
                if caller._state != ASKED:
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
        """Let it leave, with all that has not been answered."""
        if caller._state == CLOSED:
            return
        cdef epoll_event event
        cdef int fd = caller._fd
        epoll_ctl(self.fd, EPOLL_CTL_DEL, fd, &event)
        held = PyBytes_FromStringAndSize(<char*>caller._held, <Py_ssize_t>caller._used) if caller._used else b""
        caller._fd = -1
        self._leaving.append((fd, held, max(0, self._now - caller._since_ms)))
        self._forget(caller)

    def take_leaving(self):
        """Those that have left: (descriptor, bytes, since when in ms its request is coming in); the caller's to close."""
        leaving, self._leaving = self._leaving, []
        return leaving

    def take_turned_away(self, Py_ssize_t max_count):
        """Some of those that are to be refused: (caller, the beginning of what it has sent, is it late?); else there is
        no room for it."""
        found, self._turned_away = self._turned_away[:max_count], self._turned_away[max_count:]
        return found

    def refuse(self, Caller caller not None, bytes response not None):
        """One of them is told this, whole, and that is its end."""
        if caller._state == ENDING:
            caller._reply = response
            caller._sent = 0
            self._send_last(caller)

    def tick(self, int64_t now_ms, int64_t idle_ms=-1):
        """See to those that take too long. Call it about once a second. ``idle_ms``: another one for this time."""
        cdef Py_ssize_t i = len(self._callers)
        cdef Caller caller
        cdef int64_t waited
        self._now = now_ms
        if idle_ms < 0:
            idle_ms = self._idle_ms
        while i:
            i -= 1                      # from behind: _forget fills a place with the last one
            caller = self._callers[i]
            waited = now_ms - caller._since_ms
            if (caller._state == SENDING and waited >= self._response_ms
                    or caller._state == ENDING and waited >= LINGER_MS):
                self._close(caller)
            elif caller._state == READING and not caller._queued:
                if caller._used == 0:
                    if waited >= idle_ms:
                        self._close(caller)
                elif waited >= self._patience_ms and self._answers_late:
                    self._turn_away(caller, caller._held, caller._used, True)
                elif waited >= self._patience_ms:
                    self.hand_over(caller)

    def drain(self):
        """Take nobody any more. Those that are idle are let go; of the others, who has no answer coming leaves, and the
        rest end with it."""
        cdef Caller caller
        self._draining = True
        for caller in self._callers[:]:
            if caller._state == READING:
                if caller._used == 0:
                    self._close(caller)
                else:
                    self.hand_over(caller)

    def close(self):
        """End every connection at once."""
        self._draining = True
        while self._callers:
            self._close(self._callers[-1])

    # what follows is called from above only

    cdef int _look_at(self, Caller caller, uint32_t events) except -1:
        """See to one that is ready for something; 0: for being considered."""
        try:
            if events == 0:
                self._consider_held(caller)
            if caller._state == ENDING:
                if events & EPOLLOUT and caller._reply is not None:
                    self._send_last(caller)
                if caller._state != CLOSED and events & (EPOLLIN | EPOLLHUP | EPOLLERR):
                    self._throw_away(caller)
                return 0
            if caller._state == SENDING and events & EPOLLOUT:
                self._send_more(caller)
            if caller._state != CLOSED and events & (EPOLLIN | EPOLLHUP | EPOLLERR):
                self._receive(caller, events)
        except Exception as error:
            self.failures.append(error)
            self._close(caller)
        return 0

    cdef int _queue(self, Caller caller) except -1:
        if not caller._queued:
            caller._queued = True
            self._ready.append(caller)
        return 0

    cdef void _arm(self, Caller caller, uint32_t wanted) noexcept:
        cdef epoll_event event
        if wanted != caller._mask:
            caller._mask = wanted
            event.events = wanted
            event.data.ptr = <void*>caller
            epoll_ctl(self.fd, EPOLL_CTL_MOD, caller._fd, &event)

    cdef int _receive(self, Caller caller, uint32_t events) except -1:
        cdef ssize_t size = c_recv(caller._fd, self._buffer, RECEIVE_BYTES, MSG_DONTWAIT)
        cdef ssize_t done
        if size < 0 and (errno == EAGAIN or errno == EINTR):
            if events & (EPOLLHUP | EPOLLERR):
                self._close(caller)
            return 0
        if size < 0 or (size == 0 and caller._state == READING and not caller._queued):
            if size == 0 and caller._used and not self._is_cut(caller) and not events & (EPOLLHUP | EPOLLERR):
                self.hand_over(caller)  # there may be something to be said about half a head
            else:
                self._close(caller)
            return 0
        if size == 0:
            caller._ended = True        # it may still want to have its answers
            if events & (EPOLLHUP | EPOLLERR):
                self._close(caller)
            else:
                self._arm(caller, caller._mask & ~EPOLLIN)
            return 0
        if caller._state == READING and caller._used == 0:
            caller._since_ms = self._now
            done = self._consider(caller, self._buffer, <size_t>size)
            if not caller.append(self._buffer + (done if done > 0 else 0), <size_t>(size - done if done > 0 else size),
                                 done == LEAVES or caller._state != READING):
                self._turn_away(caller, self._buffer, <size_t>size, False)
            elif done == LEAVES:
                self.hand_over(caller)
        elif not caller.append(self._buffer, <size_t>size, caller._state != READING):
            self._turn_away(caller, caller._held, caller._used, False)
        elif caller._state == READING and not caller._queued:
            self._consider_held(caller)
        if (caller._state == ASKED or caller._state == SENDING) and caller._used > caller._taken and (
                caller._used > caller._taken + BEHIND_BYTES or self._room.short):
            self._arm(caller, caller._mask & ~EPOLLIN)
        return 0

    cdef int _turn_away(self, Caller caller, const uint8_t* begun, size_t size, bint late) except -1:
        """There is no room for its request, which has begun so, or it is ``late``: what is held of it goes at once."""
        begin = PyBytes_FromStringAndSize(<const char*>begun, <Py_ssize_t>min(size, self._head_bytes))
        caller._state = ENDING
        caller._since_ms = self._now
        caller.drop(caller._used)
        self._turned_away.append((caller, begin, late))
        return 0

    cdef int _send_last(self, Caller caller) except -1:
        cdef size_t left = <size_t>len(caller._reply) - caller._sent
        cdef ssize_t sent = c_send(caller._fd, <const char*>caller._reply + caller._sent, left, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0 and errno != EAGAIN and errno != EINTR:
            self._close(caller)
        elif sent == <ssize_t>left:
            caller._reply = None
            c_shutdown(caller._fd, SHUT_WR)
            self._arm(caller, EPOLLIN)
        else:
            caller._sent += <size_t>(sent if sent > 0 else 0)
            self._arm(caller, EPOLLIN | EPOLLOUT)
        return 0

    cdef int _throw_away(self, Caller caller) except -1:
        cdef ssize_t size = c_recv(caller._fd, self._buffer, RECEIVE_BYTES, MSG_DONTWAIT)
        if size > 0:
            caller._thrown_away += <size_t>size
        if caller._thrown_away > LINGER_BYTES or size == 0 or (size < 0 and errno != EAGAIN and errno != EINTR):
            self._close(caller)
        return 0

    cdef int _consider_held(self, Caller caller) except -1:
        cdef ssize_t done = self._consider(caller, caller._held, caller._used)
        if done == LEAVES:
            self.hand_over(caller)
        elif done:
            caller.drop(<size_t>done)
        elif caller._state == READING:
            if caller._ended and self._is_cut(caller):
                self._close(caller)
            elif caller._ended:
                self.hand_over(caller)
            else:
                self._arm(caller, EPOLLIN)
        return 0

    cdef bint _is_cut(self, Caller caller) noexcept:
        """Is it a good head with half a body, of which there is nothing to be said when no more comes?"""
        return self._answers_late and caller._wanted != 0

    cdef ssize_t _consider(self, Caller caller, const uint8_t* data, size_t size) except -1:
        """Begin with the request that these bytes are, if they are a whole one. How many bytes have been dealt with;
        none: they are to be kept. LEAVES: it is not for this room."""
        cdef Head head
        cdef const uint8_t* found
        cdef size_t start = caller._searched - 3 if caller._searched > 3 else 0, end
        if size < caller._wanted:
            return 0
        if memcmp(data, b"POST ", size if size < 5 else 5) != 0:
            return LEAVES
        found = <const uint8_t*>memmem(data + start, size - start, b"\r\n\r\n", 4)
        if found is NULL:
            caller._searched = size
            return LEAVES if size > self._head_bytes else 0
        end = <size_t>(found - data) + 4
        if end > self._head_bytes or not read_head(data, end, &head) or head.length > self._body_bytes:
            return LEAVES
        if size - end < head.length:
            caller._searched = end - 4
            caller._wanted = end + head.length
            return 0
        caller._searched = caller._wanted = 0
        return self._begin(caller, &head, data + end, end + head.length)

    cdef ssize_t _begin(self, Caller caller, Head* head, const uint8_t* body, size_t total) except -1:
        """A whole request: stage what it publishes, or have Python asked."""
        cdef bytes key = self._key_of(caller, head), message_id
        cdef Permit permit = self._permits.get(key)
        cdef Place place = None
        caller._state = ASKED
        if permit is not None and self._wall < permit.good_until_ms:
            place = permit.place(&head.target)
        if place is not None:
            message_id = permit.stage(place, body, head.length, caller)
            if message_id is not None:
                caller._permit = permit
                caller._place = place
                caller._message_id = message_id
                caller._named = permit.named
                self.served += 1
                return <ssize_t>total
        caller._taken = total
        self.asked += 1
        target = PyUnicode_DecodeASCII(<const char*>head.target.data, <Py_ssize_t>head.target.size, NULL)
        self._asks.append((caller, key, target, headers_of(head),
                           PyBytes_FromStringAndSize(<const char*>body, <Py_ssize_t>head.length)))
        return 0

    cdef bytes _key_of(self, Caller caller, Head* head):
        """All that decides who asks and how it is told, exactly as it came. (Looked up by a keyed hash of the whole:
        how long that takes says nothing about how much of a secret was right.)"""
        cdef int i
        self._key.size = 0
        put_byte(&self._key, c'1' if caller.trusted else c'0')
        for i in range(H_DECIDING):
            if head.value[i].data is not NULL:
                put_byte(&self._key, c'+')
                put(&self._key, head.value[i].data, head.value[i].size)
            put_byte(&self._key, c'\n')
        if self._key.failed:
            PyMem_Free(self._key.data)
            out_init(&self._key, OUT_ROOM)
            raise MemoryError("no memory for a key")
        return PyBytes_FromStringAndSize(<char*>self._key.data, <Py_ssize_t>self._key.size)

    cdef Permit _answer(self, Caller caller, bytes date):
        """Send what there is to say. Returns the permit of a publish that is told to be stored."""
        cdef Permit permit = None
        cdef const char* data
        cdef size_t size
        cdef ssize_t sent
        if caller._reply is None and caller._error is not None:
            caller._reply = caller._permit.refuse(caller.whole_error())
        if caller._reply is not None:
            data = <const char*>caller._reply
            size = <size_t>len(caller._reply)
        else:
            permit = caller._permit
            self._out.size = 0
            try:
                permit.write_answer(&self._out, caller._place, caller._message_id, caller._serial, caller._series,
                                    caller._first, caller._count, date, self._draining)
            finally:
                if self._out.failed:
                    PyMem_Free(self._out.data)
                    out_init(&self._out, OUT_ROOM)
            data = <const char*>self._out.data
            size = self._out.size
        caller.drop(caller._taken)
        caller._taken = 0
        caller._permit = None
        caller._place = None
        caller._message_id = caller._series = None
        caller._error = None
        caller._since_ms = self._now
        sent = c_send(caller._fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0 and errno != EAGAIN and errno != EINTR:
            self._close(caller)
        elif sent == <ssize_t>size:
            caller._reply = None
            self._go_on(caller)
        else:
            sent = sent if sent > 0 else 0
            caller._reply = PyBytes_FromStringAndSize(data + sent, <Py_ssize_t>size - sent)
            caller._sent = 0
            caller._state = SENDING
            self._arm(caller, caller._mask | EPOLLOUT)
        if self._out.room > OUT_KEPT:
            PyMem_Free(self._out.data)
            out_init(&self._out, OUT_ROOM)
        return permit

    cdef int _send_more(self, Caller caller) except -1:
        cdef size_t left = <size_t>len(caller._reply) - caller._sent
        cdef ssize_t sent = c_send(caller._fd, <const char*>caller._reply + caller._sent, left, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0 and errno != EAGAIN and errno != EINTR:
            self._close(caller)
        elif sent == <ssize_t>left:
            caller._reply = None
            self._arm(caller, caller._mask & ~EPOLLOUT)
            self._go_on(caller)
        elif sent > 0:
            caller._sent += <size_t>sent
        return 0

    cdef int _go_on(self, Caller caller) except -1:
        """Its answer has left: the next request."""
        caller._state = READING
        caller._since_ms = self._now
        if self._draining or (caller._ended and caller._used == 0):
            self._close(caller)
            return 0
        if caller._used:
            self._queue(caller)
        if not caller._ended and caller._used <= BEHIND_BYTES:      # else it has enough to go on with
            self._arm(caller, EPOLLIN)
        return 0

    cdef void _close(self, Caller caller):
        if caller._state != CLOSED:
            c_close(caller._fd)         # epoll forgets it with that
            caller._fd = -1
            self._forget(caller)

    cdef void _forget(self, Caller caller):
        cdef Caller last = self._callers.pop()
        if last is not caller:
            self._callers[caller._at] = last
            last._at = caller._at
        caller._state = CLOSED
        caller.drop(caller._used)
        caller._reply = None
