# cython: language_level=3
"""One connection that publishes over HTTP: its state, and the bytes between its socket and the server.

    inbox    |######## current request ########|==== bytes after it ====|
             0                                 taken

    READING     waits for a request, or for the rest of one         complete: ASKED; late, or no memory: ENDING
    ASKED       its request is in progress                          the outcome is known: KNOWN
    KNOWN       in the list of those that have something to send    flush: SENDING, QUEUED or READING
    SENDING     its peer does not take all of it at once            all is taken: QUEUED or READING
    QUEUED      the bytes after the request wait for the next turn  then: READING; no memory: ENDING
    ENDING      it is refused; what it still sends is discarded
    CLOSED      it has ended, or left with all that has not been answered; from any other state

It is a ``Completion`` for the sequencer: it learns its outcome once, and appends itself to the list of callers that
have something to send. Each step changes the state here, and returns what the holder (ext/net/posts.pyx) is to do."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free

from ext.net.answer cimport Answer
from ext.net.http_head cimport Head
from ext.net.http_request cimport WHOLE, Found, read_request
from ext.net.inbox cimport drop_bytes, hold_bytes
from ext.net.kernel cimport (EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD,
                             IPPROTO_TCP, MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, TCP_NODELAY, c_close, c_recv, c_send,
                             c_shutdown, epoll_ctl, epoll_event, setsockopt)
from ext.net.outbox cimport put_bytes, take_bytes, waiting
from ext.net.permit cimport Permit, Place
from ext.net.room cimport Room
from ext.text.output cimport Out

cdef enum:
    BEHIND_BYTES = 64 * 1024            # read beyond the current request; the rest waits in the kernel
    LINGER_BYTES = 4 * 1024 * 1024      # discarded


cdef Caller new_caller(list told, Room room, str peer, bint trusted, int64_t now_ms):
    """
    Args:
        told: the caller appends itself here when its answer is known.
        room: counts incomplete input."""
    cdef Caller caller = Caller.__new__(Caller)
    caller._told = told
    caller._room = room
    caller.peer = peer
    caller.trusted = trusted
    caller.since_ms = now_ms
    return caller


@cython.final
@cython.no_gc_clear
cdef class Caller:
    """See above."""

    def __cinit__(self):
        self._fd = -1
        self._answer = Answer.__new__(Answer)

    def __dealloc__(self):
        if self._inbox.room:
            self._room.release(self._inbox.room)
        free(self._inbox.data)
        free(self._outbox.data)
        if self._fd >= 0:
            c_close(self._fd)

    def expect(self, Permit permit not None, Place place not None, str message_id not None, bint named=True):
        """Its request is staged, or about to be. Its outcome is reported in this form.

        Args:
            named: ``message_id`` is the id of its only message; else it is the prefix of the messages' ids.
        """
        self._answer.expect(permit, place, message_id.encode(), named)

    def reply(self, bytes response not None):
        """Answer its request with this complete response."""
        self._answer.respond(response)
        self._know()

    def accepted(self, uint64_t serial, str series not None, uint32_t index, uint32_t count):
        """Stored: the messages have ``serial``, from ``index`` on."""
        self._answer.accept(serial, series, index, count)
        self._know()

    def refused(self, error not None):
        """Not stored, because of this error."""
        self._answer.refuse(error)
        self._know()

    cdef int _know(self) except -1:
        if self.state == ASKED:
            self.state = KNOWN
            self._told.append(self)
        return 0

    cdef bint is_empty(self) noexcept:
        """Has all of its input been answered?"""
        return self._inbox.size == 0

    cdef bint is_reading(self) noexcept:
        """Can it receive a request, and is none in progress?"""
        return self.state == READING or self.state == QUEUED

    cdef bytes held(self, size_t max_bytes):
        """Its unanswered input, or the beginning of it."""
        return PyBytes_FromStringAndSize(<char*>self._inbox.data, <Py_ssize_t>min(self._inbox.size, max_bytes))

    cdef bint enter(self, int epoll, int fd) noexcept:
        """Take over the socket and register it with epoll. Returns False if that fails."""
        cdef int one = 1
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.ptr = <void*>self
        if epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            return False
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        self._epoll = epoll
        self._fd = fd
        self._mask = EPOLLIN
        if not self.is_empty():
            self.state = QUEUED
        return True

    cdef int leave(self) noexcept:
        """Become CLOSED and give up the socket, which the caller of this method owns now."""
        cdef epoll_event event
        cdef int fd = self._fd
        epoll_ctl(self._epoll, EPOLL_CTL_DEL, fd, &event)
        self._finish()
        return fd

    cdef void close(self) noexcept:
        c_close(self._fd)               # this also removes it from epoll
        self._finish()

    cdef void _finish(self) noexcept:
        self._fd = -1
        self.state = CLOSED
        self.drop(self._inbox.size)
        take_bytes(&self._outbox, waiting(&self._outbox))

    # its input

    cdef ssize_t receive(self, uint8_t* buffer, size_t room) noexcept:
        """Returns the number of bytes that have come, or AT_END, NOTHING or BROKEN."""
        cdef ssize_t size = c_recv(self._fd, buffer, room, MSG_DONTWAIT)
        if size >= 0:
            return size
        return NOTHING if errno == EAGAIN or errno == EINTR else BROKEN

    cdef void begin(self, int64_t now_ms) noexcept:
        """The first bytes of a request have come: its time limit starts."""
        self.since_ms = now_ms

    cdef Found read(self, const uint8_t* data, size_t size, size_t max_head, size_t max_body, Head* head) noexcept:
        """Are these bytes, all of its input, the next request? If so, that request is in progress now."""
        cdef Found found = read_request(&self._progress, data, size, max_head, max_body, head)
        if found == WHOLE:
            self.state = ASKED
        return found

    cdef Found read_held(self, size_t max_head, size_t max_body, Head* head) noexcept:
        self.state = READING
        return self.read(self._inbox.data, self._inbox.size, max_head, max_body, head)

    cdef bint hold(self, const uint8_t* data, size_t size, bint leaving) except -1:
        """Keep these bytes too. False: no memory. Never False if it leaves, or has a request in progress."""
        return hold_bytes(&self._inbox, self._room, data, size, leaving or not self.is_reading())

    cdef void drop(self, size_t size) noexcept:
        """Remove the first bytes of the inbox, which have been processed."""
        drop_bytes(&self._inbox, self._room, size)

    cdef Move await_more(self, bint answers_late) noexcept:
        """Its request is not complete yet."""
        if self._ended:
            return ENDS if self._is_cut(answers_late) else LEAVES
        self._arm(EPOLLIN)
        return STAYS

    cdef Move meet_end(self, bint broken, bint answers_late) noexcept:
        """It will send no more. ``broken``: nor will it receive."""
        if broken or (self.state == READING and (self.is_empty() or self._is_cut(answers_late))):
            return ENDS
        if self.state == READING:
            return LEAVES               # half a head may deserve an answer
        self._ended = True              # it may still wait for its answers
        self._arm(self._mask & ~EPOLLIN)
        return STAYS

    cdef bint _is_cut(self, bint answers_late) noexcept:
        """Is it a good head with part of a body, which needs no answer if no more comes?"""
        return answers_late and self._progress.wanted != 0

    cdef void pause_if_ahead(self):
        """Stop reading if much input has come after the request in progress."""
        cdef size_t behind = self._inbox.size - min(self._taken, self._inbox.size)
        if ASKED <= self.state <= SENDING and behind and (behind > BEHIND_BYTES or self._room.short):
            self._arm(self._mask & ~EPOLLIN)

    # outcomes

    cdef void ask(self, size_t taken) noexcept:
        """Python has been asked about its request of ``taken`` bytes, which are held until the answer."""
        self._taken = taken

    cdef void staged(self, Permit permit, Place place, bytes message_id, bint named) noexcept:
        """Its request has been staged; see ``expect``."""
        self._answer.expect(permit, place, message_id, named)

    cdef Permit write_answer(self, Out* out, bytes date, bint last):
        """Write the answer, and forget the request. See ``Answer.write``."""
        cdef Permit permit = self._answer.write(out, date, last)
        self.drop(self._taken)
        self._taken = 0
        return permit

    cdef Move send(self, const uint8_t* data, size_t size, bint last, int64_t now_ms) except? ENDS:
        """Send its answer; ``last``: the connection ends after it."""
        cdef ssize_t sent = c_send(self._fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent == <ssize_t>size:
            return self._next_request(last, now_ms)
        if sent < 0 and errno != EAGAIN and errno != EINTR:
            return ENDS
        sent = max(sent, 0)
        put_bytes(&self._outbox, data + sent, size - <size_t>sent)
        self.state = SENDING
        self.since_ms = now_ms
        self._arm(self._mask | EPOLLOUT)
        return STAYS

    cdef Move send_more(self, bint last, int64_t now_ms) noexcept:
        cdef ssize_t left = self._send_waiting()
        if left < 0:
            return ENDS
        if left > 0:
            return STAYS
        self._arm(self._mask & ~EPOLLOUT)
        return self._next_request(last, now_ms)

    cdef Move _next_request(self, bint last, int64_t now_ms) noexcept:
        """Its answer has been sent."""
        self.since_ms = now_ms
        self.state = READING if self.is_empty() else QUEUED
        if last or (self._ended and self.is_empty()):
            return ENDS
        if not self._ended and self._inbox.size <= BEHIND_BYTES:        # else it has enough input
            self._arm(EPOLLIN)
        return STAYS if self.state == READING else GOES_ON

    cdef ssize_t _send_waiting(self) noexcept:
        """Send the rest of the answer. Returns the number of bytes left, or BROKEN."""
        cdef ssize_t sent = c_send(self._fd, self._outbox.data + self._outbox.start, waiting(&self._outbox),
                                   MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0 and errno != EAGAIN and errno != EINTR:
            return BROKEN
        take_bytes(&self._outbox, <uint32_t>max(sent, 0))
        return <ssize_t>waiting(&self._outbox)

    # its end

    cdef void turn_away(self, int64_t now_ms) noexcept:
        """Prepare to refuse it; its input is released at once."""
        self.state = ENDING
        self.since_ms = now_ms
        self.drop(self._inbox.size)

    cdef Move refuse(self, bytes response) except? ENDS:
        """Send this complete response, and end."""
        put_bytes(&self._outbox, <const uint8_t*><const char*>response, <size_t>len(response))
        return self._send_last()

    cdef Move _send_last(self) noexcept:
        cdef ssize_t left = self._send_waiting()
        if left < 0:
            return ENDS
        if left == 0:
            c_shutdown(self._fd, SHUT_WR)
        self._arm(EPOLLIN | EPOLLOUT if left else EPOLLIN)
        return STAYS

    cdef Move linger(self, uint32_t events, uint8_t* buffer, size_t room) noexcept:
        """Handle events while ENDING."""
        cdef ssize_t size
        if events & EPOLLOUT and waiting(&self._outbox) and self._send_last() == ENDS:
            return ENDS
        if not events & (EPOLLIN | EPOLLHUP | EPOLLERR):
            return STAYS
        size = self.receive(buffer, room)
        if size == AT_END or size == BROKEN:
            return ENDS
        self._thrown_away += <size_t>max(size, 0)
        return ENDS if self._thrown_away > LINGER_BYTES else STAYS

    cdef void _arm(self, uint32_t wanted) noexcept:
        cdef epoll_event event
        if wanted != self._mask:
            self._mask = wanted
            event.events = wanted
            event.data.ptr = <void*>self
            epoll_ctl(self._epoll, EPOLL_CTL_MOD, self._fd, &event)
