# cython: language_level=3
"""The data plane: moves the bytes of plain WebSocket connections, with epoll.

    recv -> frame decoder -> events (a batch)        up: complete messages, and what became of connections
    streams of rings -> send, many frames at once    down: "this stream moved", and replies queued per socket

A connection is a ``Socket``: a descriptor, a decoder (which holds memory only while a frame is incomplete), and ``tx``,
the bytes that are its alone (replies, a replay). A ``Subscription`` is one reader of one stream: a place in it, and the
serial that belongs to the place. What a slow reader has not taken stays in the stream, which it shares with all others;
only the rest of a frame that a short write cut in two is copied to ``tx``, so that a place is always a frame's beginning.

    order on a socket:  tx first, then the streams; so a reply queued before a subscription starts is read before it

Nothing here blocks, unless ``poll`` is told how long it may, and nothing calls back but a sink (ext/sink.pyx): the events
of a poll are a list.

The other side works too: a socket added with ``client`` masks what it sends, and follows no streams but may well have a
sink. That is what a load tester needs."""
cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset, strerror

from os import urandom

from ext cimport frame as codec
from ext.acks cimport AckQueue
from ext.kernel cimport (CLOCK_MONOTONIC, EFD_CLOEXEC, EFD_NONBLOCK, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT,
                         EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, IPPROTO_TCP, MSG_DONTWAIT, MSG_NOSIGNAL,
                         POLLIN, SHUT_WR, TCP_NODELAY, c_close, c_read, c_recv, c_send, c_sendmsg, c_shutdown,
                         c_write, clock_gettime, epoll_create1, epoll_ctl, epoll_event, epoll_wait, eventfd, iovec,
                         msghdr, pollfd, ppoll, setsockopt, timespec)
from ext.output cimport Out, out_init
from ext.ring cimport Ring, Segment, Stream
from ext.sink cimport Sink

# Kinds of event; the third member of an event is, in this order, bytes, bytes, a reason, a close code, a Subscription,
# None, an exception (of the sink: a bug).
TEXT, BINARY, GONE, VIOLATION, BEHIND, DRAINED, FAILED = range(1, 8)

cdef enum:
    _TEXT = 1
    _BINARY = 2
    _GONE = 3
    _VIOLATION = 4
    _BEHIND = 5
    _DRAINED = 6
    _FAILED = 7

    OPEN = 0
    CLOSING = 1             # our close frame is queued; what still arrives is thrown away
    SHUT = 2                # it has been sent; waiting for the peer to go
    CLOSED = 3

    READY_EVENTS = 512      # of one poll: some 512 small frames are 1 ms of work above
    RECEIVE_BYTES = 256 * 1024
    MOST_RUNS = 64          # pieces in one send
    SEND_BYTES = 256 * 1024 # of one send: what a socket buffer takes at most, usually
    SENDS_A_SLICE = 512     # then others get a turn: some 2 ms
    ROUNDS = 4              # sends to one socket in one pump, for the same reason
    FEW_STREAMS = 16        # up to so many streams of one socket are looked through at each of its sends
    TX_HIGH = 256 * 1024    # who leaves so much of our replies unread is not read from until it has taken them
    STALLED_FACTOR = 4      # times as long as for silence, for a peer that leaves bytes unread
    GATHER_US = 100         # between looks at what has arrived, while it has to wait in any case
    ACK_ROOM = 4096
    ACK_KEPT = 64 * 1024    # so much of the buffer in which ACKs are made

cdef bytes _HEARTBEAT_JSON = b'\x81\x0c{"action":0}'
cdef bytes _HEARTBEAT_MSGPACK = b"\x82\x09\x81\xa6action\x00"


@cython.final
@cython.no_gc_clear
cdef class Subscription:
    """A reader of one stream on one socket. Made by ``Socket.subscribe``; it reads until ``stop``."""

    cdef readonly Stream stream
    cdef Socket _socket
    cdef uint64_t _place
    cdef uint64_t _cursor           # serial of the last entry before _place
    cdef uint64_t _skip_origin
    cdef uint64_t _quiet_until
    cdef uint32_t _at_stream        # where it stands in stream.readers
    cdef uint32_t _at_socket        # and in socket._subscriptions
    cdef readonly bint active

    @property
    def cursor(self):
        """Serial of the last entry that was handed to the socket (or passed over)."""
        return self._cursor

    def stop(self):
        """Read no further. What was handed to the socket still goes out."""
        if self.active:
            self._socket._plane._unsubscribe(self)


@cython.final
@cython.no_gc_clear
cdef class Socket:
    """One plain WebSocket connection. Made by ``Plane.add``."""

    cdef Plane _plane
    cdef readonly object owner      # whose events these are; None once it is closed
    cdef Sink _sink                 # or None
    cdef uint64_t _told_in          # the last poll that made an event of one of its messages
    cdef int _fd
    cdef uint8_t _state
    cdef bint _msgpack, _heartbeats, _paused, _blocked, _dirty, _want_drained, _pinged, _client
    cdef uint32_t _mask
    cdef uint32_t _at_plane
    cdef uint8_t* _tx
    cdef uint32_t _tx_from, _tx_to, _tx_room
    cdef int64_t _last_in, _last_out    # ms
    cdef void** _subscriptions
    cdef uint32_t _count, _room
    cdef codec.Decoder _decoder

    def send(self, bytes payload not None):
        """Queue one message in the socket's own format; it leaves with the next flush."""
        if self._state == OPEN:
            self._queue_frame(2 if self._msgpack else 1, <const uint8_t*><const char*>payload, <size_t>len(payload))
            self._plane._touch(self)

    def send_frames(self, bytes frames not None):
        """Queue bytes that are frames already (masked ones, if this side is the client)."""
        if self._state == OPEN:
            self._queue(<const uint8_t*><const char*>frames, <size_t>len(frames))
            self._plane._touch(self)

    def deliver_to(self, Sink sink):
        """From now on its messages go to ``sink`` first (None: to nobody)."""
        self._sink = sink

    def notify_drained(self):
        """Ask for one DRAINED event when everything queued has left."""
        if self._state == OPEN:
            self._want_drained = True
            self._plane._touch(self)

    def subscribe(self, Stream stream not None, uint64_t place, *, uint64_t skip_origin=0, uint64_t quiet_until=0):
        """Read ``stream`` from ``place`` (a frame's beginning, held now), without the frames of ``skip_origin``,
        and without ephemeral ones before ``quiet_until``. On a socket that is closed: a reader that is not active."""
        cdef object cursor = stream.cursor_at(place)
        if cursor is None or place > stream.head:
            raise ValueError(f"place {place} is not held: {stream.tail} to {stream.head}")
        cdef Subscription reader = Subscription.__new__(Subscription)
        reader.stream = stream
        reader._socket = self
        reader._place = place
        reader._cursor = cursor
        reader._skip_origin = skip_origin
        reader._quiet_until = quiet_until
        if self._state != OPEN:         # it has been lost, and its owner learns it with the next poll
            return reader
        _grow_pointers(&self._subscriptions, &self._room, self._count)
        _grow_pointers(&stream.readers, &stream.reader_room, stream.reader_count)
        reader._at_socket = self._count
        self._subscriptions[self._count] = <void*>reader
        self._count += 1
        reader._at_stream = stream.reader_count
        stream.readers[stream.reader_count] = <void*>reader
        stream.reader_count += 1
        reader.active = True
        Py_INCREF(reader)               # the two arrays' reference; given back by _unsubscribe
        if place < stream.head:
            self._plane._touch(self)
        return reader

    def pause(self):
        """Read no more from the peer until ``resume``: its sends will wait."""
        self._paused = True
        if self._state == OPEN:
            self._plane._arm(self)

    def resume(self):
        self._paused = False
        if self._state == OPEN:
            self._plane._arm(self)

    def close(self, int code, str reason=""):
        """Send what is queued, a close frame, and end. No event of this socket comes after this call.

        Raises: ValueError, for a code that may not be sent (RFC 6455, section 7.4).
        """
        cdef bytes body
        if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
            raise ValueError(f"{code} is no close code to send")
        if self._state != OPEN:
            return
        body = code.to_bytes(2, "big") + reason.encode()[:123].decode(errors="ignore").encode()  # cut at a character's end
        self._plane._leave_streams(self)
        self._queue_frame(8, <const uint8_t*><const char*>body, <size_t>len(body))
        self._end()

    def abort(self):
        """End at once; nothing more is sent. No event of this socket comes after this call."""
        self.owner = None
        self._plane._remove(self)

    @property
    def queued(self):
        """Bytes that wait in this socket's own queue."""
        return self._tx_to - self._tx_from

    @property
    def closed(self):
        return self._state != OPEN

    cdef void _end(self):
        self._state = CLOSING
        self.owner = None
        self._plane._touch(self)

    cdef int _queue(self, const uint8_t* data, size_t size) except -1:
        cdef size_t held = self._tx_to - self._tx_from, room
        cdef uint8_t* grown
        if size == 0:                   # a ping's payload, which is nowhere
            return 0
        if size > (<size_t>1 << 31) - held:
            raise MemoryError("more than 2 GiB are queued for one socket")
        if self._tx_from and (held == 0 or self._tx_room - self._tx_to < size):
            memmove(self._tx, self._tx + self._tx_from, held)
            self._tx_from = 0
            self._tx_to = <uint32_t>held
        if self._tx_room - self._tx_to < size:
            room = self._tx_room * 2 if self._tx_room else 512
            while room < held + size:
                room *= 2
            grown = <uint8_t*>realloc(self._tx, room)
            if grown is NULL:
                raise MemoryError(f"no memory for {room} bytes to send")
            self._tx = grown
            self._tx_room = <uint32_t>room
        memcpy(self._tx + self._tx_to, data, size)
        self._tx_to += <uint32_t>size
        return 0

    cdef int _queue_frame(self, int opcode, const uint8_t* payload, size_t size) except -1:
        """One whole frame, masked if this side is the client."""
        cdef uint8_t header[14]
        cdef int used = codec.write_header(header, opcode, size)
        cdef uint8_t* key
        cdef size_t i
        cdef uint8_t* body
        if not self._client:
            self._queue(header, <size_t>used)
            return self._queue(payload, size)
        header[1] |= 128
        key = header + used
        self._plane._fill_mask(key)
        self._queue(header, <size_t>used + 4)
        self._queue(payload, size)
        body = self._tx + self._tx_to - size
        for i in range(size):
            body[i] ^= key[i & 3]
        return 0

    def __dealloc__(self):
        codec.decoder_free(&self._decoder)
        free(self._tx)
        free(self._subscriptions)
        if self._fd >= 0:
            c_close(self._fd)


cdef int64_t _monotonic_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000 + now.tv_nsec // 1000


cdef int _grow_pointers(void*** array, uint32_t* room, uint32_t count) except -1:
    cdef void** grown
    cdef uint32_t wanted
    if count == room[0]:
        wanted = room[0] * 2 if room[0] else 1
        grown = <void**>realloc(array[0], <size_t>wanted * sizeof(void*))
        if grown is NULL:
            raise MemoryError(f"no memory for {wanted} pointers")
        array[0] = grown
        room[0] = wanted
    return 0


@cython.final
cdef class Plane:
    """All plain connections of one thread. Give ``fd`` to whatever waits for it to be readable, then ``poll``."""

    cdef readonly int fd
    cdef readonly int kick_fd           # an eventfd: who writes to it ends a wait, from any thread
    cdef void** _sockets
    cdef uint32_t _count, _room, _tick_at   # _tick_at: so many have not had their tick in this round
    cdef list _events, _dirty, _moved
    cdef uint32_t _reader_at            # how far the first of _moved has been served
    cdef uint8_t* _buffer
    cdef int64_t _now
    cdef uint64_t _polls, _mask_state
    cdef Out _ack                       # the ACK that is being made
    cdef uint32_t _max_message
    cdef int64_t _heartbeat_ms, _ping_ms, _lost_ms, _linger_ms
    cdef readonly uint64_t messages_in, bytes_in, sends, bytes_out, accepted
    cdef readonly int woken             # how many descriptors the last poll found ready

    def __cinit__(self, *, uint32_t max_message, int64_t heartbeat_ms, int64_t ping_ms, int64_t lost_ms,
                  int64_t linger_ms):
        self.kick_fd = -1
        self.fd = epoll_create1(EPOLL_CLOEXEC)
        if self.fd < 0:
            raise OSError(errno, "epoll_create1: " + strerror(errno).decode())
        self.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.kick_fd < 0:
            raise OSError(errno, "eventfd: " + strerror(errno).decode())
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.ptr = NULL
        epoll_ctl(self.fd, EPOLL_CTL_ADD, self.kick_fd, &event)
        self._buffer = <uint8_t*>PyMem_Malloc(RECEIVE_BYTES)
        if self._buffer is NULL:
            raise MemoryError("no memory for the receive buffer")
        self._max_message = max_message
        self._heartbeat_ms = heartbeat_ms
        self._ping_ms = ping_ms
        self._lost_ms = lost_ms
        self._linger_ms = linger_ms
        out_init(&self._ack, ACK_ROOM)
        self._mask_state = int.from_bytes(urandom(8), "little") | 1
        self._events = []
        self._dirty = []
        self._moved = []

    def __dealloc__(self):
        PyMem_Free(self._buffer)
        PyMem_Free(self._ack.data)
        free(self._sockets)
        if self.kick_fd >= 0:
            c_close(self.kick_fd)
        if self.fd >= 0:
            c_close(self.fd)

    def __len__(self):
        return self._count

    def add(self, int fd, object owner, *, bint msgpack, bint heartbeats, bytes received=b"", int64_t now_ms,
            Sink sink=None, bint client=False):
        """Take over a connection whose handshake is done: ``fd`` (now ours to close), and what was read beyond it."""
        cdef Socket s = Socket.__new__(Socket)
        cdef int one = 1
        cdef epoll_event event
        cdef bytearray copy
        s._plane = self
        s._fd = fd
        s.owner = owner
        s._msgpack = msgpack
        s._heartbeats = heartbeats
        s._last_in = s._last_out = self._now = now_ms
        s._sink = sink
        s._client = client
        codec.decoder_init(&s._decoder, self._max_message, client)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        _grow_pointers(&self._sockets, &self._room, self._count)
        s._mask = EPOLLIN
        event.events = EPOLLIN
        event.data.ptr = <void*>s
        if epoll_ctl(self.fd, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "epoll_ctl: " + strerror(errno).decode())
        s._at_plane = self._count
        self._sockets[self._count] = <void*>s
        self._count += 1
        self.accepted += 1
        Py_INCREF(s)                    # the array's reference; given back by _remove
        if received:
            copy = bytearray(received)  # the decoder unmasks in place
            self._decode(s, <uint8_t*><char*>copy, <size_t>len(copy))
            s._told_in = self._polls + 1            # the next poll tells; what it reads itself comes behind that
            self.kick()
        return s

    def kick(self):
        """Make the next wait for ``fd`` return at once."""
        cdef uint64_t one = 1
        c_write(self.kick_fd, &one, sizeof(one))

    def listen_to(self, int fd):
        """While ``fd`` (it stays the caller's) is readable, so is the plane's own, and no poll waits: as after a kick."""
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.ptr = NULL
        if epoll_ctl(self.fd, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "epoll_ctl: " + strerror(errno).decode())

    def poll(self, int64_t now_ms, *, long wait_us=0, bint gather=False):
        """What has arrived, beside what sinks have taken: a list of ``(owner, kind, data)``, in each socket's order.

        Waits up to ``wait_us`` microseconds for the first of it, without the GIL. With ``gather`` it waits for a kick,
        while there is only work for sinks: for one who can't do anything with that before. What arrives meanwhile is
        taken in from time to time, many at once, rather than at a wake-up each.
        What poll returned before must have been dealt with: a sink may be handed what came after it.
        """
        cdef int64_t until = _monotonic_us() + wait_us if wait_us > 0 else 0, left
        cdef bint kicked = False
        self._now = now_ms
        self._polls += 1
        self.woken = 0
        while True:
            kicked = self._turn()
            if kicked or self._events or self._dirty or (self.woken and not gather) or wait_us <= 0:
                break
            left = until - _monotonic_us()
            if left <= 0:
                break
            if gather:
                self._wait(self.kick_fd, left if left < GATHER_US else GATHER_US)
            else:
                self._wait(self.fd, left)
        events, self._events = self._events, []
        return events

    cdef bint _turn(self):
        """Look once at what is ready, and read it. True: there was a kick."""
        cdef epoll_event ready[READY_EVENTS]
        cdef int i, n
        cdef uint64_t kicks
        cdef bint kicked = False
        cdef Socket s
        n = epoll_wait(self.fd, ready, READY_EVENTS, 0)
        for i in range(n):
            if ready[i].data.ptr is NULL:
                c_read(self.kick_fd, &kicks, sizeof(kicks))
                kicked = True
                continue
            Py_INCREF(<object>ready[i].data.ptr)    # alive until the batch is through, whatever happens to it
        for i in range(n):
            if ready[i].data.ptr is NULL:
                continue
            s = <Socket>ready[i].data.ptr
            if s._state != CLOSED and ready[i].events & EPOLLOUT:
                s._blocked = False
                self._arm(s)
                self._touch(s)
            if s._state != CLOSED and ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR):
                self._receive(s, ready[i].events)
            Py_DECREF(<object>ready[i].data.ptr)
        if n > 0:
            self.woken += n
        return kicked

    cdef void _wait(self, int fd, int64_t wait_us):
        """Until ``fd`` is readable, or the time is over. (epoll's own time-outs are whole milliseconds.)"""
        cdef pollfd us
        cdef timespec timeout
        us.fd = fd
        us.events = POLLIN
        timeout.tv_sec = wait_us // 1_000_000
        timeout.tv_nsec = wait_us % 1_000_000 * 1000
        with nogil:
            ppoll(&us, 1, &timeout, NULL)

    def answer(self, list touched not None):
        """Send what these queues have to say, and empty the list. Returns those that are for their owners to serve:
        their transport is another, they have a refusal to tell, or are paused."""
        cdef list queues = touched[:], others = []
        cdef AckQueue queue
        cdef Socket s
        touched.clear()
        for queue in queues:
            if type(queue.transport) is not Socket:
                others.append(queue)
                continue
            s = <Socket>queue.transport
            while queue.plain():
                self._ack.size = 0
                if not queue.put_run(&self._ack):
                    break
                if s._state == OPEN:
                    s._queue_frame(2 if s._msgpack else 1, self._ack.data, self._ack.size)
                    self._touch(s)
            else:
                others.append(queue)
        if self._ack.room > ACK_KEPT or self._ack.failed:
            PyMem_Free(self._ack.data)
            out_init(&self._ack, ACK_ROOM)
        return others

    def moved(self, list streams not None):
        """Frames were appended to these streams: their readers get them with the next flush."""
        cdef Stream stream
        for stream in streams:
            if not stream.moved and stream.reader_count:
                stream.moved = True
                self._moved.append(stream)

    def flush(self):
        """Send what waits, a slice of it: True when more is left, for another call soon."""
        cdef int budget = SENDS_A_SLICE
        cdef Socket s
        cdef Stream stream
        cdef Subscription reader
        cdef list dirty = self._dirty
        self._dirty = []
        for s in dirty:
            s._dirty = False
            if s._state == CLOSED:
                continue
            if s._blocked:
                self._arm(s)            # its queue may have grown beyond what we let it ask for more with
            elif self._pump(s, None):
                self._touch(s)
        while self._moved and budget > 0:
            stream = self._moved[0]
            while self._reader_at < stream.reader_count and budget > 0:
                reader = <Subscription>stream.readers[self._reader_at]
                self._reader_at += 1
                s = reader._socket
                if s._blocked or reader._place == stream.head:
                    continue
                budget -= 1
                if self._pump(s, reader if s._count > FEW_STREAMS else None):
                    self._touch(s)
            if self._reader_at >= stream.reader_count:
                self._reader_at = 0
                stream.moved = False
                del self._moved[0]
        if self._events:
            self.kick()                 # a send found somebody gone or behind: the next poll tells
        return bool(self._dirty) or bool(self._moved)

    def tick(self, int64_t now_ms, *, uint32_t parts=1):
        """Heartbeats, pings, and the end of those who do not answer. Call it about once a second; or ``parts`` times
        as often, for a part of the sockets each time: ten thousand heartbeats at once would hold up everybody else.
        True: there is something to send."""
        cdef uint32_t i = self._tick_at if 0 < self._tick_at < self._count else self._count
        cdef uint32_t least
        cdef Socket s
        if parts == 0:
            raise ValueError("parts must be at least 1")
        least = self._count // parts + 1
        least = i - least if i > least else 0
        self._now = now_ms
        while i > least:
            i -= 1                      # from behind: _remove fills a place with the last one
            self._tick_at = i
            s = <Socket>self._sockets[i]
            if s._state != OPEN:
                if now_ms - s._last_out >= self._linger_ms:
                    self._remove(s)
                continue
            # Who does not read does not see our pings. It costs nothing but its place, and TCP's own probes find out
            # whether it is still there: so it has more time.
            if now_ms - s._last_in >= (STALLED_FACTOR * self._lost_ms if s._blocked else self._lost_ms) and not s._paused:
                self._lose(s, "no answer to pings")
                continue
            if now_ms - s._last_in >= self._ping_ms and not s._pinged and s._tx_from == s._tx_to:
                s._pinged = True
                s._queue_frame(9, NULL, 0)
                self._touch(s)
            if s._heartbeats and now_ms - s._last_out >= self._heartbeat_ms and s._tx_to - s._tx_from <= 2:
                if s._msgpack:
                    s._queue(<const uint8_t*><const char*>_HEARTBEAT_MSGPACK, <size_t>len(_HEARTBEAT_MSGPACK))
                else:
                    s._queue(<const uint8_t*><const char*>_HEARTBEAT_JSON, <size_t>len(_HEARTBEAT_JSON))
                self._touch(s)
            elif now_ms - s._last_out >= self._heartbeat_ms and s._tx_from == s._tx_to:
                s._queue_frame(9, NULL, 0)
                self._touch(s)
        if self._events:
            self.kick()
        return bool(self._dirty)

    def close(self):
        """End every connection at once, without a word."""
        while self._count:
            (<Socket>self._sockets[self._count - 1]).abort()

    # what follows is called from above only

    cdef void _fill_mask(self, uint8_t* key):
        """Four bytes that are hard to guess for who can't see them (xorshift, begun at random)."""
        cdef uint64_t state = self._mask_state
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        self._mask_state = state
        memcpy(key, &state, 4)

    cdef void _touch(self, Socket s):
        if not s._dirty:
            s._dirty = True
            self._dirty.append(s)

    cdef void _arm(self, Socket s):
        """Tell epoll what we want to hear of this socket."""
        cdef uint32_t wanted = EPOLLOUT if s._blocked else 0
        cdef epoll_event event
        if s._state != OPEN or not (s._paused or s._tx_to - s._tx_from > TX_HIGH):
            wanted |= EPOLLIN
        if wanted != s._mask:
            s._mask = wanted
            event.events = wanted
            event.data.ptr = <void*>s
            epoll_ctl(self.fd, EPOLL_CTL_MOD, s._fd, &event)

    cdef void _receive(self, Socket s, uint32_t events):
        cdef ssize_t size = c_recv(s._fd, self._buffer, RECEIVE_BYTES, MSG_DONTWAIT)
        if size < 0 and (errno == EAGAIN or errno == EINTR):
            if events & (EPOLLHUP | EPOLLERR) and not events & EPOLLIN:
                self._lose(s, "connection reset")
            return
        if size <= 0:
            self._lose(s, "connection closed by the peer" if size == 0 else strerror(errno).decode())
            return
        self.bytes_in += size
        s._last_in = self._now
        s._pinged = False
        if s._state == OPEN:            # afterwards the peer may still talk; nobody listens
            self._decode(s, self._buffer, <size_t>size)

    cdef void _decode(self, Socket s, uint8_t* data, size_t size):
        cdef size_t consumed = 0
        cdef codec.Event event
        cdef int kind
        while s._state == OPEN:
            kind = codec.decoder_next(&s._decoder, data, size, &consumed, &event)
            if kind == codec.EV_NEED_MORE:
                return
            if kind == codec.EV_TEXT or kind == codec.EV_BINARY:
                self.messages_in += 1
                if s._sink is not None and s._told_in != self._polls:
                    try:
                        if s._sink.take(event.data, event.size, kind == codec.EV_BINARY):
                            continue
                    except Exception as error:
                        s._told_in = self._polls
                        self._events.append((s.owner, _FAILED, error))
                        continue
                s._told_in = self._polls
                self._events.append((s.owner, _TEXT if kind == codec.EV_TEXT else _BINARY,
                                     (<const char*>event.data)[:event.size] if event.size else b""))
            elif kind == codec.EV_PING:
                if s._tx_to - s._tx_from <= TX_HIGH:      # beyond that it is not reading; nor is it being read much longer
                    s._queue_frame(10, event.data, event.size)
                    self._touch(s)
            elif kind == codec.EV_PONG:
                pass                    # that something came is what counts
            elif kind == codec.EV_CLOSE:
                self._events.append((s.owner, _GONE, "closed by the peer"))
                s.close(1000 if event.code == 1005 else event.code)
                return
            else:
                self._events.append((s.owner, _VIOLATION, event.code))
                s._paused = True        # nothing after it can be understood; the owner says goodbye
                self._arm(s)
                return

    cdef bint _pump(self, Socket s, Subscription only):
        """Send tx, then what the streams hold for this socket (or one of them). True: it takes more, in another turn."""
        cdef iovec pieces[MOST_RUNS]
        cdef void* readers[MOST_RUNS]
        cdef uint64_t places[MOST_RUNS]
        cdef msghdr message
        cdef uint64_t total, start, size
        cdef uint32_t i, count, used
        cdef int rounds
        cdef ssize_t sent
        cdef Subscription reader
        cdef Segment* segment
        for rounds in range(ROUNDS):
            count = 0
            total = 0
            if s._tx_to > s._tx_from:
                total = s._tx_to - s._tx_from
                pieces[0].iov_base = s._tx + s._tx_from
                pieces[0].iov_len = total
                readers[0] = NULL
                count = 1
            i = 0
            used = s._count if only is None else 1
            while i < used and count < MOST_RUNS and total < SEND_BYTES:
                reader = <Subscription>s._subscriptions[i] if only is None else only
                i += 1
                start = reader._place
                if start == reader.stream.head or not reader.active:
                    continue
                if start < reader.stream.tail:
                    self._events.append((s.owner, _BEHIND, reader))
                    self._unsubscribe(reader)
                    used = s._count if only is None else 0
                    i -= 1 if only is None else 0     # another one has come to its place
                    continue
                while count < MOST_RUNS and total < SEND_BYTES:
                    size = reader.stream.run(start, SEND_BYTES - total, reader._skip_origin, reader._quiet_until, &start)
                    if size == 0:
                        if count == 0 or readers[count - 1] != <void*>reader:
                            _hand_over(reader, reader.stream.head)
                        break
                    segment = reader.stream.segment_at(start)
                    pieces[count].iov_base = &segment.data[start - segment.start]
                    pieces[count].iov_len = size
                    readers[count] = <void*>reader
                    places[count] = start
                    count += 1
                    total += size
                    start += size
                    if start == reader.stream.head:
                        break
            if count == 0:
                self._after_sending(s)
                return False
            if count == 1:
                sent = c_send(s._fd, pieces[0].iov_base, pieces[0].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL)
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = pieces
                message.msg_iovlen = count
                sent = c_sendmsg(s._fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            self.sends += 1
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    self._lose(s, strerror(errno).decode())
                    return False
                sent = 0
            self.bytes_out += sent
            if sent:
                s._last_out = self._now
            self._account(s, pieces, readers, places, count, <uint64_t>sent)
            if <uint64_t>sent < total:
                s._blocked = True
                self._arm(s)
                return False
            if not self._more(s, only):
                self._after_sending(s)
                return False
        return True

    cdef bint _more(self, Socket s, Subscription only):
        cdef uint32_t i
        cdef Subscription reader
        if s._tx_to > s._tx_from:
            return True
        if only is not None:
            return only.active and only._place != only.stream.head
        for i in range(s._count):
            reader = <Subscription>s._subscriptions[i]
            if reader._place != reader.stream.head:
                return True
        return False

    cdef void _account(self, Socket s, iovec* pieces, void** readers, uint64_t* places, uint32_t count, uint64_t sent):
        """Move tx and the places on by what was sent."""
        cdef uint32_t i
        cdef uint64_t taken, place, end, n
        cdef Subscription reader
        cdef Segment* segment
        for i in range(count):
            taken = sent if sent < pieces[i].iov_len else pieces[i].iov_len
            sent -= taken
            if readers[i] is NULL:
                s._tx_from += <uint32_t>taken
                if s._tx_from == s._tx_to:
                    free(s._tx)             # most connections are idle most of the time; a new one is 50 ns away
                    s._tx = NULL
                    s._tx_from = s._tx_to = s._tx_room = 0
            elif taken:
                reader = <Subscription>readers[i]
                place = places[i] + taken
                if taken < pieces[i].iov_len:
                    n = reader.stream.entry_at(place)
                    if reader.stream.start_of(n) != place:      # cut within a frame: its rest becomes the socket's own
                        end = reader.stream.start_of(n + 1)
                        segment = reader.stream.segment_at(place)
                        s._queue(&segment.data[place - segment.start], <size_t>(end - place))
                        place = end
                _hand_over(reader, place)
            if taken < pieces[i].iov_len:
                return

    cdef void _after_sending(self, Socket s):
        """Everything has left."""
        if s._tx_to > s._tx_from:
            return
        self._arm(s)
        if s._want_drained and s.owner is not None:
            s._want_drained = False
            self._events.append((s.owner, _DRAINED, None))
        if s._state == CLOSING:
            s._state = SHUT
            c_shutdown(s._fd, SHUT_WR)

    cdef void _unsubscribe(self, Subscription reader):
        cdef Stream stream = reader.stream
        cdef Socket s = reader._socket
        cdef Subscription other
        reader.active = False
        stream.reader_count -= 1
        if reader._at_stream != stream.reader_count:
            other = <Subscription>stream.readers[stream.reader_count]
            stream.readers[reader._at_stream] = <void*>other
            other._at_stream = reader._at_stream
            if stream.moved:
                self._touch(other._socket)      # it may have come from the part not yet served into the part that is
        s._count -= 1
        if reader._at_socket != s._count:
            other = <Subscription>s._subscriptions[s._count]
            s._subscriptions[reader._at_socket] = <void*>other
            other._at_socket = reader._at_socket
        Py_DECREF(reader)

    cdef void _leave_streams(self, Socket s):
        while s._count:
            self._unsubscribe(<Subscription>s._subscriptions[s._count - 1])

    cdef void _lose(self, Socket s, str reason):
        if s.owner is not None:
            self._events.append((s.owner, _GONE, reason))
            s.owner = None
        self._remove(s)

    cdef void _remove(self, Socket s):
        cdef Socket other
        if s._state == CLOSED:
            return
        s._state = CLOSED
        self._leave_streams(s)
        c_close(s._fd)                  # epoll forgets it with that
        s._fd = -1
        s._sink = None
        s._tx_from = s._tx_to = 0
        self._count -= 1
        if s._at_plane != self._count:
            other = <Socket>self._sockets[self._count]
            self._sockets[s._at_plane] = <void*>other
            other._at_plane = s._at_plane
        Py_DECREF(s)


cdef void _hand_over(Subscription reader, uint64_t place):
    """The one line where a cursor moves: what lies before ``place`` is the socket's now."""
    cdef Ring ring = reader.stream.ring
    cdef uint64_t n
    reader._place = place
    if place == reader.stream.head:
        reader._cursor = ring._slots[ring.newest & ring._mask].serial if ring.newest >= ring.oldest else ring.evicted
    else:
        n = reader.stream.entry_at(place) - 1
        reader._cursor = ring._slots[n & ring._mask].serial if n >= ring.oldest else ring.evicted
