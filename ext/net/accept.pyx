# cython: language_level=3
"""New connections, until each has sent the head of its first request. They are accepted and read in batches, without a
task for each.

    listening socket -> accept4 -> read what has arrived -> head complete?  -> (descriptor, bytes): now the caller's
                                           |  no
                                     waits in epoll with a buffer of its own; at most ``max_waiting`` connections,
                                     each with a limit on its time and on the size of its head

At ``max_waiting`` no connection is accepted: the rest stay in the kernel's backlog, in the order of arrival. Those that
wait then have less time, so that silent clients do not keep others out for long. A connection that was handed up
without a complete head (with TLS, only the first bytes are in clear) counts as waiting until the caller releases it.
Nothing here blocks or calls back."""
cimport cython
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, strerror

from ext.log.bag cimport Bag, make_room, put, take_out
from ext.net.head_fields cimport head_end
from ext.net.kernel cimport (EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_NONBLOCK,
                         accept4, c_close, c_recv, epoll_create1, epoll_ctl, epoll_event, epoll_wait)

cdef enum:
    READY_EVENTS = 256
    ACCEPTS_A_POLL = 64         # then connections that are in get their turn: about 5 ms with what follows
    TASKS_A_POLL = 16           # connections handed up at their first bytes: each costs a task, not only a look
    RECEIVE_BYTES = 16 * 1024
    TLS_HANDSHAKE = 0x16        # the type of TLS's first record: no head will follow

cdef struct Waiting:
    int fd
    uint32_t used, at           # bytes of the head so far; index among all that wait
    int64_t since_ms
    uint8_t* head


@cython.final
cdef class Entrance:
    """Register ``fd`` for readability, then call ``poll``."""

    cdef readonly int fd
    cdef int _listener
    cdef bint _armed, _paused
    cdef readonly bint starved      # the last poll found no descriptor or memory for a newcomer: pause for a moment
    cdef int _max_descriptors
    cdef uint32_t _max_waiting, _head_bytes, _held
    cdef int64_t _patience_ms, _crowded_ms
    cdef Bag _waiting               # holds a reference to each
    cdef uint8_t* _buffer

    def __cinit__(self, int listener, *, uint32_t max_waiting, uint32_t head_bytes, int64_t patience_ms,
                  int64_t crowded_ms, int max_descriptors):
        """
        Args:
            listener: a non-blocking listening socket; the caller keeps it.
            head_bytes: a longer head is handed up as it is, for the caller to refuse. So is input that begins as TLS
                does. 0: the first bytes are handed up, whatever they are, and each connection counts until ``release``.
            patience_ms: how long a peer may take for its head; crowded_ms: how long while others wait to be accepted.
            max_descriptors: of the process, before newcomers are turned away. The kernel assigns the smallest free
                number, so the numbers above are left for files.
        """
        if not 0 < max_waiting < 1 << 20 or head_bytes >= 1 << 24:
            raise ValueError("max_waiting must be above 0, and it and head_bytes reasonable")
        self.fd = epoll_create1(EPOLL_CLOEXEC)
        if self.fd < 0:
            raise OSError(errno, "epoll_create1: " + strerror(errno).decode())
        self._listener = listener
        self._max_descriptors = max_descriptors
        self._max_waiting = max_waiting
        self._head_bytes = head_bytes
        self._patience_ms = patience_ms
        self._crowded_ms = min(crowded_ms, patience_ms)
        self._buffer = <uint8_t*>malloc(RECEIVE_BYTES)
        if self._buffer is NULL:
            raise MemoryError("no memory for those who wait")
        self._arm(True)

    def limit(self, *, uint32_t head_bytes, int64_t patience_ms, int max_descriptors):
        """Change the limits. Whether only the first bytes are in clear (``head_bytes`` 0) does not change."""
        if head_bytes >= 1 << 24 or (head_bytes == 0) != (self._head_bytes == 0):
            raise ValueError("head_bytes must be reasonable, and 0 only where it was")
        self._head_bytes = head_bytes
        self._patience_ms = patience_ms
        self._crowded_ms = min(self._crowded_ms, patience_ms)
        self._max_descriptors = max_descriptors

    def __len__(self):
        """The number of connections that wait here."""
        return self._waiting.count

    @property
    def crowded(self):
        """Has the number of newcomers reached its limit, those that are held included?"""
        return self._full()

    def release(self):
        """A connection that was handed up without a head no longer counts as a newcomer."""
        if self._held == 0:
            raise ValueError("nobody is held")
        self._held -= 1
        self._welcome()

    def poll(self, int64_t now_ms):
        """Connections whose first request has arrived: ``(descriptor, bytes)``; the caller closes the descriptors."""
        cdef epoll_event ready[READY_EVENTS]
        cdef int i, n
        cdef list arrived = []
        cdef bint newcomers = False
        self.starved = False
        n = epoll_wait(self.fd, ready, READY_EVENTS if self._head_bytes else TASKS_A_POLL, 0)
        for i in range(n):
            if ready[i].data.ptr is NULL:
                newcomers = True
            else:
                self._read(<Waiting*>ready[i].data.ptr, arrived)
        if newcomers:
            self._accept(now_ms, arrived)
        else:
            self._welcome()
        return arrived

    def expire(self, int64_t now_ms):
        """Drop connections that take too long; returns their number."""
        cdef uint32_t i = self._waiting.count, dropped = 0
        cdef Waiting* one
        cdef int64_t patience = self._crowded_ms if self._full() else self._patience_ms
        while i:
            i -= 1                              # backwards: _drop moves the last one into the freed place
            one = <Waiting*>self._waiting.items[i]
            if now_ms - one.since_ms >= patience:
                self._drop(one, True)
                dropped += 1
        self._welcome()
        return dropped

    def pause(self):
        """Stop accepting until ``resume``."""
        self._paused = True
        self._arm(False)

    def resume(self):
        self._paused = False
        self._welcome()

    def shut(self):
        """Stop accepting for good; connections that wait here go on."""
        self._arm(False)
        self._listener = -1

    def stop(self):
        """Stop accepting for good, and close connections that wait here."""
        self.shut()
        self._drop_all()

    cdef bint _full(self):
        return self._waiting.count + self._held >= self._max_waiting

    cdef void _welcome(self):
        """Accept more connections, up to the limit."""
        if not self._armed and not self._paused and not self._full():
            self._arm(True)

    cdef void _arm(self, bint wanted):
        cdef epoll_event event
        if wanted == self._armed or self._listener < 0:
            return
        event.events = EPOLLIN
        event.data.ptr = NULL
        if epoll_ctl(self.fd, EPOLL_CTL_ADD if wanted else EPOLL_CTL_DEL, self._listener, &event) == 0:
            self._armed = wanted

    cdef int _accept(self, int64_t now_ms, list arrived) except -1:
        cdef int accepted, fd
        cdef ssize_t size
        for accepted in range(ACCEPTS_A_POLL if self._head_bytes else TASKS_A_POLL):
            if self._full():
                self._arm(False)
                return 0
            fd = accept4(self._listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                if errno == EINTR or errno == ECONNABORTED:
                    continue
                if errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                    self.starved = True
                elif errno != EAGAIN:
                    raise OSError(errno, "accept4: " + strerror(errno).decode())
                return 0
            if fd >= self._max_descriptors:
                c_close(fd)
                self.starved = True
                return 0
            size = c_recv(fd, self._buffer, RECEIVE_BYTES, MSG_DONTWAIT)
            if size > 0 and self._has_come(self._buffer, <size_t>size, 0):
                arrived.append((fd, (<char*>self._buffer)[:size]))
                self._held += self._head_bytes == 0
            elif size == 0 or (size < 0 and errno != EAGAIN and errno != EINTR):
                c_close(fd)
            else:
                self._keep(fd, now_ms, size if size > 0 else 0)
        return 0

    cdef bint _has_come(self, const uint8_t* head, size_t size, size_t searched) noexcept:
        """Has all that we wait for arrived? No head ends within the first ``searched`` bytes."""
        return size > self._head_bytes or head[0] == TLS_HANDSHAKE or head_end(head, size, searched) != 0

    cdef int _keep(self, int fd, int64_t now_ms, ssize_t size) except -1:
        """Wait for the rest of the head; ``size`` bytes of it are in the buffer."""
        cdef epoll_event event
        cdef Waiting* one = <Waiting*>malloc(sizeof(Waiting))
        try:
            make_room(&self._waiting)
            if one is NULL:
                raise MemoryError("no memory for one who waits")
        except MemoryError:
            free(one)
            c_close(fd)
            raise
        one.fd = fd
        one.used = 0
        one.head = NULL
        one.since_ms = now_ms
        event.events = EPOLLIN
        event.data.ptr = one
        if (size and not self._append(one, size)) or epoll_ctl(self.fd, EPOLL_CTL_ADD, fd, &event) < 0:
            c_close(fd)
            free(one.head)
            free(one)
            self.starved = True
            return 0
        one.at = put(&self._waiting, one)
        return 0

    cdef bint _append(self, Waiting* one, ssize_t size):
        cdef uint8_t* grown = <uint8_t*>realloc(one.head, one.used + <size_t>size)
        if grown is NULL:
            return False
        one.head = grown
        memcpy(grown + one.used, self._buffer, <size_t>size)
        one.used += <uint32_t>size
        return True

    cdef int _read(self, Waiting* one, list arrived) except -1:
        cdef ssize_t size = c_recv(one.fd, self._buffer, RECEIVE_BYTES, MSG_DONTWAIT)
        if size < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if size <= 0 or not self._append(one, size):
            self._drop(one, True)
            return 0
        if self._has_come(one.head, one.used, one.used - <size_t>size):
            arrived.append((one.fd, (<char*>one.head)[:one.used]))
            self._held += self._head_bytes == 0
            self._drop(one, False)
        return 0

    cdef void _drop(self, Waiting* one, bint close):
        cdef epoll_event event
        cdef Waiting* other
        if close:
            c_close(one.fd)                     # this also removes it from epoll
        else:
            epoll_ctl(self.fd, EPOLL_CTL_DEL, one.fd, &event)
        other = <Waiting*>take_out(&self._waiting, one.at)
        if other is not NULL:
            other.at = one.at
        free(one.head)
        free(one)

    cdef void _drop_all(self):
        while self._waiting.count:
            self._drop(<Waiting*>self._waiting.items[self._waiting.count - 1], True)

    def __dealloc__(self):
        self._drop_all()
        free(self._waiting.items)
        free(self._buffer)
        if self.fd >= 0:
            c_close(self.fd)
