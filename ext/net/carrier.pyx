# cython: language_level=3
"""What stands for the kernel where a plane's socket has no descriptor: a task carries its bytes (to TLS, and from there).

    pump --put--> [ waiting ] --take--> task [ on its way ] --> peer        CARRIED_BYTES in both, as in a socket's buffer
    peer --> task --Plane.feed--> frame decoder

What is sent next, and when, is decided where it is for every other socket (ext/net/send.pyx); here it is bytes already. Who has
taken some and calls ``Plane.sent`` makes room, as EPOLLOUT would tell."""
cimport cython

cdef enum:
    CARRIED_BYTES = 64 * 1024   # four records of TLS: what a reader who is slow makes us hold beside its outbox


@cython.final
cdef class Carrier:
    """One socket's way in and out. Made by ``Plane.carry``; used by the one task that reads, and the one that writes."""

    def __cinit__(self, object wake not None):
        """``wake`` is called when there is something to take, or one of the three flags has changed."""
        self._wake = wake
        self._waiting = bytearray()
        self.reading = True             # else nothing is to be fed until it is again
        self.finished = False           # nothing will be put any more: send what waits, then the end
        self.ended = False              # the socket has gone: nobody wants to know anything any more

    def take(self):
        """The bytes to send next; none: nothing waits. ``Plane.sent`` when they have left, before any others are taken."""
        if self._on_way:
            raise ValueError("what was taken before has not been sent")
        data, self._waiting = self._waiting, bytearray()
        self._on_way = <uint32_t>len(data)
        return data

    cdef ssize_t put(self, const iovec* pieces, uint32_t count) except -1:
        """As many of these bytes as there is room for, as sendmsg would; how many it were."""
        cdef size_t room = CARRIED_BYTES - self._on_way - <size_t>len(self._waiting), size
        cdef ssize_t taken = 0
        cdef uint32_t i
        cdef bint first = not self._waiting
        for i in range(count):
            size = pieces[i].iov_len if pieces[i].iov_len < room else room
            if size == 0:
                break
            self._waiting += (<char*>pieces[i].iov_base)[:size]
            room -= size
            taken += size
        if taken and first:
            self._tell()
        return taken

    def sent(self):
        """What was taken has left."""
        self._on_way = 0

    cdef int read(self, bint wanted) except -1:
        if self.reading != wanted:
            self.reading = wanted
            self._tell()
        return 0

    cdef int finish(self) except -1:
        self.finished = True
        return self._tell()

    cdef int end(self) except -1:
        if not self.ended:
            self.ended = True
            self._waiting = bytearray()
            self._tell()
            self._wake = None           # it knows the socket, which knows us
        return 0

    cdef int _tell(self) except -1:
        if self._wake is not None:
            self._wake()
        return 0
