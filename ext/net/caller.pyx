# cython: language_level=3
"""One connection that publishes over HTTP: where it stands, and what is between its socket and us.

    inbox    |######## the request under way ########|==== what came behind it ====|
             0                                       taken

    READING     waits for a request, or for the rest of one         it is whole: ASKED; late, or no room: ENDING
    ASKED       its request is under way                            its outcome comes: KNOWN
    KNOWN       it is among those that have something to say        flush: SENDING, QUEUED or READING
    SENDING     its peer does not take all of it at once            all is taken: QUEUED or READING
    QUEUED      what came behind is looked at in the next turn      then: READING; no room: ENDING
    ENDING      it is refused; what it still sends is thrown away
    CLOSED      it has ended, or left with all that has not been answered; from any of the others

It is a ``Completion`` for the sequencer: who has published is told once, and puts itself into the list of those that
have something to say. Each step changes the state here, and says what whoever holds it (ext/net/posts.pyx) is to do."""
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
    BEHIND_BYTES = 64 * 1024            # that are read beyond a request under way; the rest waits in the kernel
    LINGER_BYTES = 4 * 1024 * 1024      # that are thrown away


cdef Caller new_caller(list told, Room room, str peer, bint trusted, int64_t now_ms):
    """
    Args:
        told: it puts itself there when its answer is known.
        room: for what has come in part."""
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
        """What it has asked for is staged, or about to be: it is told in this manner once it is accepted or refused.

        Args:
            named: ``message_id`` is its only message's own; else the ids of its messages begin with it.
        """
        self._answer.expect(permit, place, message_id.encode(), named)

    def reply(self, bytes response not None):
        """What it has asked for is answered with this, whole."""
        self._answer.respond(response)
        self._know()

    def accepted(self, uint64_t serial, str series not None, uint32_t index, uint32_t count):
        """Stored: its messages have ``serial``, from ``index`` on."""
        self._answer.accept(serial, series, index, count)
        self._know()

    def refused(self, error not None):
        """Not stored, for this reason."""
        self._answer.refuse(error)
        self._know()

    cdef int _know(self) except -1:
        if self.state == ASKED:
            self.state = KNOWN
            self._told.append(self)
        return 0

    cdef bint is_empty(self) noexcept:
        """Has it sent nothing that has not been answered?"""
        return self._inbox.size == 0

    cdef bint is_reading(self) noexcept:
        """Is no request of it under way, and may one come?"""
        return self.state == READING or self.state == QUEUED

    cdef bytes held(self, size_t max_bytes):
        """What it has sent and has not been answered, or the beginning of that."""
        return PyBytes_FromStringAndSize(<char*>self._inbox.data, <Py_ssize_t>min(self._inbox.size, max_bytes))

    cdef bint enter(self, int epoll, int fd) noexcept:
        """From now on this is its socket, and it ours, and looked out for there; False: it can't be."""
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
        """CLOSED, but for its socket, which is the caller's of this now."""
        cdef epoll_event event
        cdef int fd = self._fd
        epoll_ctl(self._epoll, EPOLL_CTL_DEL, fd, &event)
        self._finish()
        return fd

    cdef void close(self) noexcept:
        c_close(self._fd)               # epoll forgets it with that
        self._finish()

    cdef void _finish(self) noexcept:
        self._fd = -1
        self.state = CLOSED
        self.drop(self._inbox.size)
        take_bytes(&self._outbox, waiting(&self._outbox))

    # what it sends

    cdef ssize_t receive(self, uint8_t* buffer, size_t room) noexcept:
        """How many bytes have come; AT_END, NOTHING or BROKEN."""
        cdef ssize_t size = c_recv(self._fd, buffer, room, MSG_DONTWAIT)
        if size >= 0:
            return size
        return NOTHING if errno == EAGAIN or errno == EINTR else BROKEN

    cdef void begin(self, int64_t now_ms) noexcept:
        """The first bytes of a request have come: its time begins."""
        self.since_ms = now_ms

    cdef Found read(self, const uint8_t* data, size_t size, size_t max_head, size_t max_body, Head* head) noexcept:
        """Are these bytes, all that there is of it, its next request? If they are, that is under way."""
        cdef Found found = read_request(&self._progress, data, size, max_head, max_body, head)
        if found == WHOLE:
            self.state = ASKED
        return found

    cdef Found read_held(self, size_t max_head, size_t max_body, Head* head) noexcept:
        self.state = READING
        return self.read(self._inbox.data, self._inbox.size, max_head, max_body, head)

    cdef bint hold(self, const uint8_t* data, size_t size, bint leaving) except -1:
        """Keep these too; False: there is no room for them. There is, if it leaves, or a request of it is under way."""
        return hold_bytes(&self._inbox, self._room, data, size, leaving or not self.is_reading())

    cdef void drop(self, size_t size) noexcept:
        """The first bytes of what is held have been dealt with."""
        drop_bytes(&self._inbox, self._room, size)

    cdef Move await_more(self, bint answers_late) noexcept:
        """Its request is not whole yet."""
        if self._ended:
            return ENDS if self._is_cut(answers_late) else LEAVES
        self._arm(EPOLLIN)
        return STAYS

    cdef Move meet_end(self, bint broken, bint answers_late) noexcept:
        """It will send no more; ``broken``: nor take anything."""
        if broken or (self.state == READING and (self.is_empty() or self._is_cut(answers_late))):
            return ENDS
        if self.state == READING:
            return LEAVES               # there may be something to be said about half a head
        self._ended = True              # it may still want to have its answers
        self._arm(self._mask & ~EPOLLIN)
        return STAYS

    cdef bint _is_cut(self, bint answers_late) noexcept:
        """Is it a good head with half a body, of which there is nothing to be said when no more comes?"""
        return answers_late and self._progress.wanted != 0

    cdef void pause_if_ahead(self):
        """While a request of it is under way, so much is read of what comes behind it."""
        cdef size_t behind = self._inbox.size - min(self._taken, self._inbox.size)
        if ASKED <= self.state <= SENDING and behind and (behind > BEHIND_BYTES or self._room.short):
            self._arm(self._mask & ~EPOLLIN)

    # what it is told

    cdef void ask(self, size_t taken) noexcept:
        """Python is asked about its request, which is so long; till it is answered it is held."""
        self._taken = taken

    cdef void staged(self, Permit permit, Place place, bytes message_id, bint named) noexcept:
        """Its request has been; see ``expect``."""
        self._answer.expect(permit, place, message_id, named)

    cdef Permit write_answer(self, Out* out, bytes date, bint last):
        """What there is to say, and nothing is left of the request. See ``Answer.write``."""
        cdef Permit permit = self._answer.write(out, date, last)
        self.drop(self._taken)
        self._taken = 0
        return permit

    cdef Move send(self, const uint8_t* data, size_t size, bint last, int64_t now_ms) except? ENDS:
        """Send its answer; ``last``: it ends with that."""
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
        """Its answer has left."""
        self.since_ms = now_ms
        self.state = READING if self.is_empty() else QUEUED
        if last or (self._ended and self.is_empty()):
            return ENDS
        if not self._ended and self._inbox.size <= BEHIND_BYTES:        # else it has enough to go on with
            self._arm(EPOLLIN)
        return STAYS if self.state == READING else GOES_ON

    cdef ssize_t _send_waiting(self) noexcept:
        """How many bytes are left after that, or BROKEN."""
        cdef ssize_t sent = c_send(self._fd, self._outbox.data + self._outbox.start, waiting(&self._outbox),
                                   MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0 and errno != EAGAIN and errno != EINTR:
            return BROKEN
        take_bytes(&self._outbox, <uint32_t>max(sent, 0))
        return <ssize_t>waiting(&self._outbox)

    # how it ends

    cdef void turn_away(self, int64_t now_ms) noexcept:
        """It is to be refused; what is held of its request goes at once."""
        self.state = ENDING
        self.since_ms = now_ms
        self.drop(self._inbox.size)

    cdef Move refuse(self, bytes response) except? ENDS:
        """Tell it this, whole, and that it is the end."""
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
        """While it is ENDING."""
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
