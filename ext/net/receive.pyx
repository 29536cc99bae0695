# cython: language_level=3
"""A socket's input: received, decoded, and passed on.

    recv -> (cipher) -> frame decoder -> message -> its sink, if it takes it       else: an event, for Python
                                         ping    -> a pong in its outbox
                                         close   -> the same back, and an event    else: a violation, and nothing more
                                                                                   is read

Once a message of a socket has become an event, so do all later ones of the same poll: this keeps their order."""
from cpython.bytes cimport PyBytes_AS_STRING
from libc.errno cimport EAGAIN, EINTR, errno
from libc.string cimport memcpy, strerror

from ext.wire cimport frame as codec
from ext.net.kernel cimport EPOLLERR, EPOLLHUP, EPOLLIN, MSG_DONTWAIT, c_recv
from ext.net.outbox cimport waiting
from ext.net.socket cimport (CLOSED, CODE_NO_ROOM, KIND_BINARY, KIND_FAILED, KIND_GONE, KIND_TEXT, KIND_VIOLATION, OPEN, OUTBOX_HIGH,
                         Sockets)

from ssl import SSLError, SSLZeroReturnError


cdef void receive(Socket s, uint32_t events, uint8_t* buffer, size_t room) except *:
    """Read once, into ``buffer``. ``events``: what epoll reported for the socket."""
    cdef Sockets plane = s.plane
    cdef ssize_t size = c_recv(s.fd, buffer, room, MSG_DONTWAIT)
    if size < 0 and (errno == EAGAIN or errno == EINTR):
        if events & (EPOLLHUP | EPOLLERR) and not events & EPOLLIN:
            s.lose("connection reset")
        return
    if size <= 0:
        s.lose("connection closed by the peer" if size == 0 else strerror(errno).decode())
        return
    plane.bytes_in += size
    s.last_in = plane.now
    s.pinged = False
    if s.cipher is not None:
        decipher(s, buffer, <size_t>size)
    elif s.state == OPEN:               # later input is ignored
        decode(s, buffer, <size_t>size)


cdef void decipher(Socket s, uint8_t* buffer, size_t size) except *:
    """Process the plaintext of these records, and of those that the cipher holds. The decoder gets it in ``buffer``, too,
    because it unmasks in place."""
    cdef bytes plain
    try:
        plain = s.cipher.open(buffer, size)
        while plain is not None:
            if not plain:
                raise SSLZeroReturnError
            if s.state == OPEN:
                memcpy(buffer, PyBytes_AS_STRING(plain), <size_t>len(plain))
                decode(s, buffer, <size_t>len(plain))
            if s.state == CLOSED:
                return
            plain = s.cipher.open_more()
    except SSLZeroReturnError:
        s.lose("connection closed by the peer")
    except SSLError as error:
        s.lose(f"TLS: {error.reason or error}")
    else:
        if s.cipher.has_records():      # an answer to what only TLS itself has to know
            s.touch()


cdef void decode(Socket s, uint8_t* data, size_t size) except *:
    """Process the frames that these bytes complete; they are unmasked in place."""
    cdef Sockets plane = s.plane
    cdef size_t consumed = 0
    cdef codec.Event event
    cdef int kind
    while s.state == OPEN:
        kind = codec.decoder_next(&s.decoder, data, size, &consumed, &event)
        if kind == codec.EV_NEED_MORE:
            if s.decoder.partial_room + s.decoder.message_room != s.counted and not s.count_parts():
                _turn_away(s)
            return
        if kind == codec.EV_TEXT or kind == codec.EV_BINARY:
            plane.messages_in += 1
            if s.sink is not None and s.told_in != plane.polls:
                try:
                    if s.sink.take(event.data, event.size, kind == codec.EV_BINARY):
                        continue
                except Exception as error:
                    s.told_in = plane.polls
                    plane.events.append((s.owner, KIND_FAILED, error))
                    continue
            s.told_in = plane.polls
            plane.events.append((s.owner, KIND_TEXT if kind == codec.EV_TEXT else KIND_BINARY,
                                 (<const char*>event.data)[:event.size] if event.size else b""))
        elif kind == codec.EV_PING:
            if waiting(&s.outbox) <= OUTBOX_HIGH:   # else the peer does not read, and we soon stop reading
                s.queue_frame(codec.OP_PONG, event.data, event.size)
                s.touch()
        elif kind == codec.EV_PONG:
            pass                        # any input counts as a sign of life
        elif kind == codec.EV_CLOSE:
            plane.events.append((s.owner, KIND_GONE, "closed by the peer"))
            s.close(1000 if event.code == 1005 else event.code)
            return
        else:
            plane.events.append((s.owner, KIND_VIOLATION, event.code))
            s.paused = True             # nothing after it can be understood; the owner closes
            s.arm()
            return


cdef int _turn_away(Socket s) except -1:
    """Its incomplete message exceeds the memory: release it at once; its owner closes the socket."""
    codec.decoder_free(&s.decoder)
    s.count_parts()
    s.plane.events.append((s.owner, KIND_VIOLATION, CODE_NO_ROOM))
    s.paused = True
    s.arm()
    return 0
