# cython: language_level=3
"""TLS of a plane's socket: OpenSSL between memory buffers. The plane receives and sends its records.

    recv -> open    incoming | SSLObject | plaintext -> frame decoder
    send <- seal    outgoing | SSLObject | plaintext <- outbox, streams        as many as a send takes, sealed together

Sealed records cannot be taken back: what the kernel does not take is kept here, and sent before anything else. Until
then the socket counts as blocked, so no more is sealed for a peer that does not read: SEALED_BYTES at most."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc cimport errno as libc_errno
from libc.errno cimport EAGAIN, EINTR, EPIPE, errno
from libc.string cimport memcpy

from ext.net.kernel cimport MSG_DONTWAIT, MSG_NOSIGNAL, c_send

import ssl

cdef enum:
    RECORD_BYTES = 16 * 1024    # the most plaintext in one record

cdef object _WantRead = ssl.SSLWantReadError


@cython.final
cdef class Cipher:
    """One connection, after its handshake."""

    def __init__(self, tls not None, incoming not None, outgoing not None, bytes records not None=b""):
        """
        Args:
            tls: an ``ssl.SSLObject`` between the two ``ssl.MemoryBIO``.
            records: to be sent before all others, as the session tickets of the handshake.
        """
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._read, self._write, self._pending = tls.read, tls.write, tls.pending
        self._records = records

    cdef bytes open(self, const uint8_t* records, size_t size):
        """Add received records. Returns the plaintext of one, as ``open_more``."""
        self._incoming.write(PyBytes_FromStringAndSize(<const char*>records, <Py_ssize_t>size))
        return self.open_more()

    cdef bytes open_more(self):
        """The plaintext of the next complete record; None: there is no other one. Call it until then.

        Empty, or ssl.SSLZeroReturnError if we have done so, too: the peer has announced the end. Raises: ssl.SSLError:
        it violates the protocol.
        """
        if self._incoming.pending == 0 and self._pending() == 0:
            return None
        try:
            return self._read(RECORD_BYTES)
        except _WantRead:
            return None

    cdef ssize_t seal_and_send(self, int fd, const iovec* pieces, unsigned int count) except? -2:
        """Like sendmsg: the number of plaintext bytes taken, at most SEALED_BYTES. Call it only when nothing is left of
        earlier ones. Returns -1, see errno, when the peer is gone."""
        cdef size_t total = 0, at = 0, size
        cdef unsigned int i
        cdef bytes plain
        for i in range(count):
            total += pieces[i].iov_len
        total = min(total, <size_t>SEALED_BYTES)
        plain = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>total)
        for i in range(count):
            size = min(<size_t>pieces[i].iov_len, total - at)
            memcpy(PyBytes_AS_STRING(plain) + at, pieces[i].iov_base, size)
            at += size
        try:
            self._seal(plain)
        except ssl.SSLError:            # the peer has ended the session
            libc_errno.errno = EPIPE
            return -1
        return <ssize_t>total if self.send_rest(fd) >= 0 else -1

    cdef int _seal(self, bytes plain) except -1:
        """Whole, because nothing bounds the buffer behind it."""
        cdef Py_ssize_t size = len(plain), at
        if size <= RECORD_BYTES:
            self._write(plain)
            return 0
        with memoryview(plain) as view:
            for at in range(0, size, RECORD_BYTES):
                self._write(view[at:at + RECORD_BYTES])
        return 0

    cdef int send_rest(self, int fd) except? -2:
        """Send sealed records. 1: all have left; 0: the kernel takes no more now; -1: see errno."""
        cdef ssize_t sent
        cdef size_t size
        while True:
            size = <size_t>len(self._records) - self._sent
            if size == 0:
                self._sent = 0
                self._records = self._outgoing.read() if self._outgoing.pending else b""
                if not self._records:
                    return 1
                continue
            sent = c_send(fd, PyBytes_AS_STRING(self._records) + self._sent, size, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent >= 0:
                self._sent += <size_t>sent
            elif errno == EAGAIN:
                return 0
            elif errno != EINTR:
                return -1

    cdef bint has_records(self):
        """There are records to send."""
        return <size_t>len(self._records) > self._sent or self._outgoing.pending > 0

    cdef int say_end(self) except -1:
        """Announce the end of sending, once; it is among the records to send."""
        if not self._said_end:
            self._said_end = True
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass                    # the peer has not announced its own, as always
        return 0
