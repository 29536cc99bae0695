# cython: language_level=3
"""Replaces the kernel for a plane's socket that has no descriptor: a task carries its bytes, to TLS and back.

    pump --put--> [ waiting ] --take--> task [ on its way ] --> peer   CARRIED_BYTES in both, as in a socket's buffer
    peer --> task --Plane.feed--> frame decoder

As for every other socket, ext/net/send.pyx decides what is sent next, and when; here it is only bytes. ``Plane.sent``
frees the space of bytes that the task has sent, as EPOLLOUT would report."""
cimport cython

cdef enum:
    CARRIED_BYTES = 64 * 1024   # four TLS records: the most that is held for a slow reader besides its outbox


@cython.final
cdef class Carrier:
    """Input and output of one socket. Made by ``Plane.carry``; used by one reading and one writing task."""

    def __cinit__(self, object wake not None):
        """``wake`` is called when there is something to take, or when one of the three flags has changed."""
        self._wake = wake
        self._waiting = bytearray()
        self.reading = True             # False: feed nothing until it is True again
        self.finished = False           # nothing more will be put: send what waits, then end
        self.ended = False              # the socket has gone: call the plane no more

    def take(self):
        """The bytes to send next, if any. Call ``Plane.sent`` when they have been sent, before the next take."""
        if self._on_way:
            raise ValueError("what was taken before has not been sent")
        data, self._waiting = self._waiting, bytearray()
        self._on_way = <uint32_t>len(data)
        return data

    cdef ssize_t put(self, const iovec* pieces, uint32_t count) except -1:
        """Put as many of these bytes as fit, like sendmsg; returns the number."""
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
        """The bytes that were taken have been sent."""
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
            self._wake = None           # breaks the reference cycle with the socket
        return 0

    cdef int _tell(self) except -1:
        if self._wake is not None:
            self._wake()
        return 0
