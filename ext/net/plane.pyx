# cython: language_level=3
"""The data plane: moves the bytes of WebSocket connections, plain and with TLS, with epoll.

    poll     ready sockets, from epoll -> ext/net/receive.pyx -> events (a batch), except what sinks have taken
    flush    sockets with replies, streams with new frames -> ext/net/send.pyx
    tick     silent peers: heartbeats, pings, the end
    answer   queues of ACKs -> the sockets' outboxes
    feed     bytes that others have read for a socket -> as if received

Nothing here blocks, unless ``poll`` is given a time to wait, and nothing calls back but a sink (ext/net/sink.pyx). A
poll returns its events as a list of ``(owner, kind, data)``. ext/net/socket.pxd lists the kinds and their data."""
cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ext.wire cimport frame as codec
from ext.wire.acks cimport AckQueue
from ext.net.cipher cimport Cipher
from ext.net.receive cimport decipher, decode, receive
from ext.net.kernel cimport (EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, IPPROTO_TCP, POLLIN, TCP_NODELAY, c_read, epoll_event,
                         epoll_wait, monotonic_ns, pollfd, ppoll, setsockopt, timespec, wall_clock_ms)
from ext.net.outbox cimport waiting
from ext.text.output cimport Out, out_init
from ext.net.send cimport pump
from ext.log.stream cimport Stream
from ext.net.room cimport Room
from ext.net.sink cimport Sink
from ext.net.socket cimport (CLOSED, CODE_NO_ROOM, KIND_BEHIND, KIND_BINARY, KIND_DRAINED, KIND_FAILED, KIND_GONE, KIND_TEXT,
                         KIND_VIOLATION, OPEN, Socket, Sockets, Subscription)

TEXT, BINARY, GONE, VIOLATION = KIND_TEXT, KIND_BINARY, KIND_GONE, KIND_VIOLATION
BEHIND, DRAINED, FAILED = KIND_BEHIND, KIND_DRAINED, KIND_FAILED
NO_ROOM = CODE_NO_ROOM

cdef enum:
    READY_EVENTS = 512      # of one poll: about 512 small frames are 1 ms of work above
    RECEIVE_BYTES = 256 * 1024
    CROWDED_BYTES = 16 * 1024   # read of one socket at a time, while events of others wait to be processed
    MAX_EVENTS = 256           # of one poll, beyond those of the socket that is being read
    SENDS_A_SLICE = 512     # then others get a turn: about 2 ms
    HOLD_MS = 5             # between looks at sockets that wait for their turn
    FEW_STREAMS = 16        # up to this many streams of one socket are checked at each of its sends
    STALLED_FACTOR = 4      # a peer that leaves bytes unread may be silent this many times as long
    LOOKS = 4               # at ready sockets, one after the other while each finds something
    GATHER_NS = 100_000     # between looks at arrivals, while it has to wait in any case
    ACK_ROOM = 4096
    ACK_KEPT = 64 * 1024    # size of the ACK buffer that is kept

cdef tuple _HEARTBEATS = (b'{"action":0}', b"\x81\xa6action\x00")
HEARTBEATS = _HEARTBEATS    # messages: in JSON, in msgpack


@cython.final
cdef class Plane(Sockets):
    """All connections of one thread. Register ``fd`` for readability, then call ``poll``."""

    cdef uint32_t _tick_at              # sockets that have not had their tick in this round
    cdef list _moved                    # streams with new frames
    cdef uint32_t _reader_at            # progress in the readers of the first of _moved
    cdef bint _moved_again              # it has new frames, for readers that have been served already
    cdef int _slice                     # sends of one flush
    cdef uint8_t* _buffer
    cdef Out _ack                       # the ACK that is being made
    cdef uint32_t _max_message
    cdef int64_t _heartbeat_ms, _ping_ms, _lost_ms, _linger_ms
    cdef uint32_t _read_at              # where to begin among the ready sockets: a turn may not read all
    cdef readonly int woken             # descriptors that the last poll found ready
    cdef public bint crowded            # events of earlier polls wait: read little of each socket

    def __cinit__(self, *, uint32_t max_message, int64_t heartbeat_ms, int64_t ping_ms, int64_t lost_ms,
                  int64_t linger_ms, int sends_a_slice=SENDS_A_SLICE, Room parts=None,
                  uint64_t max_waiting=UINT64_MAX):
        """
        Args:
            max_waiting: bytes of replies that peers have not taken yet, over all sockets.
            parts: counts the bytes of incomplete messages, and may be shared; None: they are not counted.
        """
        if sends_a_slice < 1:
            raise ValueError(f"sends_a_slice must be at least 1, got {sends_a_slice}")
        self._buffer = <uint8_t*>PyMem_Malloc(RECEIVE_BYTES)
        if self._buffer is NULL:
            raise MemoryError("no memory for the receive buffer")
        self._max_message = max_message
        self._heartbeat_ms = heartbeat_ms
        self._ping_ms = ping_ms
        self._lost_ms = lost_ms
        self._linger_ms = linger_ms
        self._slice = sends_a_slice
        out_init(&self._ack, ACK_ROOM)
        self._moved = []
        self.parts = parts
        self.max_waiting = max_waiting

    def __dealloc__(self):
        PyMem_Free(self._buffer)
        PyMem_Free(self._ack.data)

    def limit(self, uint32_t max_message):
        """Set the largest message, in bytes, for connections added from now on."""
        self._max_message = max_message

    def add(self, int fd, object owner, *, bint msgpack, bint heartbeats, int64_t now_ms, Sink sink=None,
            bint client=False, Cipher cipher=None):
        """Take over a connection whose handshakes are done; the plane closes ``fd``. Feed it what was read beyond them,
        after queueing the peer's first message: the input may be answered at once. With TLS it has a ``cipher``."""
        cdef Socket s = Socket.__new__(Socket)
        cdef int one = 1
        s.plane = self
        s.owner = owner
        s.msgpack = msgpack
        s.heartbeats = heartbeats
        s.last_in = s.last_out = self.now = now_ms
        s.fd = fd
        s.sink = sink
        s.client = client
        s.cipher = cipher
        codec.decoder_init(&s.decoder, self._max_message, client)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        self.join(s)
        return s

    def feed(self, Socket s not None, bytes data not None):
        """Process input that came with the handshakes: ``data``, in the clear, then what its cipher holds. The next
        poll returns the events."""
        cdef size_t size, at = 0
        self.bytes_in += <uint64_t>len(data)
        while at < <size_t>len(data) and s.state == OPEN:
            size = min(<size_t>len(data) - at, <size_t>RECEIVE_BYTES)
            memcpy(self._buffer, <const char*>data + at, size)  # the decoder unmasks in place
            decode(s, self._buffer, size)
            at += size
        if s.cipher is not None:
            decipher(s, self._buffer, 0)
        s.told_in = self.polls + 1              # the next poll returns these events, then those of what it reads
        if self.events:
            self.kick()

    def poll(self, int64_t now_ms, *, long wait_us=0, bint gather=False):
        """What has arrived, except what sinks have taken: a list of ``(owner, kind, data)``, in order for each socket.

        Waits up to ``wait_us`` microseconds for the first arrival, without the GIL. With ``gather`` it waits for a kick
        as long as only sinks have work: for callers that cannot use the results before. While there are arrivals, it
        then reads them from time to time, many at once, instead of waking up for each. Without ``gather`` it also reads
        what arrives during the reading: clients that were answered together come back one after the other, and join the
        same batch.
        Process the events of the previous poll first: a sink may get messages that came after them.
        """
        cdef int64_t until = monotonic_ns() + 1000 * <int64_t>wait_us if wait_us > 0 else 0, left
        cdef bint ended = False
        cdef uint64_t before, first = self.messages_in
        cdef int looks = 0, found
        self.now = now_ms
        self.polls += 1
        self.woken = 0
        self.kicked = self.heard = False
        while True:
            before = self.messages_in
            found = self.woken
            ended |= self._turn()
            found = self.woken - found
            looks += 1
            if (self.messages_in != before and self.messages_in - first < READY_EVENTS and looks < LOOKS
                    and not gather and not self.events):
                continue
            if ended or self.events or self.dirty or (self.woken and not gather) or wait_us <= 0:
                break
            left = until - monotonic_ns()
            if left <= 0:
                break
            if gather and found:
                self._wait(self.kick_fd, self.done_fd, left if left < GATHER_NS else GATHER_NS)
            else:
                self._wait(self.fd, -1, left)
        events, self.events = self.events, []
        return events

    cdef bint _turn(self):
        """Look once at the ready sockets, and read them. True: there is something else to do, too."""
        cdef epoll_event ready[READY_EVENTS]
        cdef int i, n, k
        cdef uint64_t times
        cdef bint ended = False
        cdef size_t room = CROWDED_BYTES if self.crowded else RECEIVE_BYTES
        cdef Socket s
        n = epoll_wait(self.fd, ready, READY_EVENTS, 0)
        for i in range(n):
            if ready[i].data.ptr == &self.done_fd:
                c_read(self.done_fd, &times, sizeof(times))
            elif ready[i].data.ptr == &self.kick_fd:
                c_read(self.kick_fd, &times, sizeof(times))
                self.kicked = True
            elif ready[i].data.ptr == &self.heard:
                self.heard = True
            else:
                Py_INCREF(<object>ready[i].data.ptr)    # alive until the batch is done, whatever happens to it
                continue
            ready[i].data.ptr = NULL
            ended = True
        k = <int>(self._read_at % <uint32_t>n) if n > 0 else 0
        self._read_at = 0
        for i in range(n):
            if ready[k].data.ptr is not NULL:
                s = <Socket>ready[k].data.ptr
                if s.state != CLOSED and ready[k].events & EPOLLOUT:
                    s.blocked = False
                    s.arm()
                    s.touch()
                if s.state != CLOSED and ready[k].events & (EPOLLIN | EPOLLHUP | EPOLLERR):
                    if len(self.events) < MAX_EVENTS:
                        if s.stalled:               # it has ended; what is left of it follows the events that wait
                            s.told_in = self.polls
                        receive(s, ready[k].events, self._buffer, room)
                    elif not self._read_at:
                        self._read_at = <uint32_t>k     # the next turn begins there
                Py_DECREF(<object>ready[k].data.ptr)
            k = k + 1 if k + 1 < n else 0
        if n > 0:
            self.woken += n
        return ended

    cdef void _wait(self, int fd, int other, int64_t wait_ns):
        """Wait until one of the two (-1: none) is readable, or the time is over. (epoll's own timeouts are whole
        milliseconds.)"""
        cdef pollfd us[2]
        cdef timespec timeout
        us[0].fd, us[1].fd = fd, other
        us[0].events = us[1].events = POLLIN
        timeout.tv_sec = wait_ns // 1_000_000_000
        timeout.tv_nsec = wait_ns % 1_000_000_000
        with nogil:
            ppoll(us, 2, &timeout, NULL)

    def answer(self, list touched not None):
        """Send what these queues have to say, and empty the list. Returns the queues that their owners have to serve:
        they have another transport, have a refusal to tell, or are paused."""
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
                s.queue_message(self._ack.data, self._ack.size)
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
            if stream.moved:
                # Readers that had their turn in the current round would wait for the next frame: start another round.
                if self._reader_at > 0 and stream is self._moved[0]:
                    self._moved_again = True
            elif stream.readers.count:
                stream.moved = True
                self._moved.append(stream)

    def flush(self):
        """Send what waits, one slice of it. True: more is left, call again soon."""
        cdef int budget = self._slice
        cdef Socket s
        cdef Stream stream
        cdef Subscription reader
        cdef list dirty
        if self.held:
            self._release()
        dirty, self.dirty = self.dirty, []
        for s in dirty:
            s.is_dirty = False
            if s.state == CLOSED:
                continue
            if s.blocked:
                s.arm()            # its queue may have grown beyond the limit for reading
            elif pump(s, None):
                s.touch()
        while self._moved and budget > 0:
            stream = self._moved[0]
            while self._reader_at < stream.readers.count and budget > 0:
                reader = <Subscription>stream.readers.items[self._reader_at]
                self._reader_at += 1
                s = reader.socket
                if s.blocked or s.is_held or reader.place == stream.head:
                    continue
                budget -= 1
                if pump(s, reader if s.subscriptions.count > FEW_STREAMS else None):
                    s.touch()
            if self._reader_at >= stream.readers.count:
                self._reader_at = 0
                del self._moved[0]
                if self._moved_again:
                    self._moved_again = False
                    self._moved.append(stream)      # behind the others: a busy stream delays nobody
                else:
                    stream.moved = False
        if self.events:
            self.kick()                 # a send found a socket gone or behind: the next poll tells
        return bool(self.dirty) or bool(self._moved)

    cdef void _release(self):
        """Look at the sockets whose deliveries wait for their turn, longest wait first, so that all get theirs."""
        cdef int64_t now_ms = wall_clock_ms()
        cdef Socket s
        cdef list held
        if 0 <= now_ms - self.released_ms < HOLD_MS:
            return
        self.released_ms = now_ms
        held, self.held = self.held, []
        for s in held:
            s.is_held = False
            s.touch()

    def tick(self, int64_t now_ms, *, uint32_t parts=1):
        """Heartbeats, pings, and the end of peers that do not answer. Call it about once a second, or ``parts`` times
        as often, for a part of the sockets each time: ten thousand heartbeats at once would delay everything else.
        True: there is something to send."""
        cdef uint32_t i = self._tick_at if 0 < self._tick_at < self.members.count else self.members.count
        cdef uint32_t least
        cdef bytes heartbeat
        cdef Socket s
        if parts == 0:
            raise ValueError("parts must be at least 1")
        least = self.members.count // parts + 1
        least = i - least if i > least else 0
        self.now = now_ms
        while i > least:
            i -= 1                      # backwards: _remove moves the last one into the freed place
            self._tick_at = i
            s = <Socket>self.members.items[i]
            if s.state != OPEN:
                if now_ms - s.last_out >= self._linger_ms:
                    s.remove()
                continue
            if (self.waiting > self.max_waiting and s.blocked
                    and waiting(&s.outbox) > self.max_waiting // self.members.count):
                s.lose("it leaves unread what others need the memory for")      # it may resume later
                continue
            # A peer that does not read does not see our pings. It costs only its place, and TCP's own probes find out
            # whether it is still there: so it gets more time.
            if (now_ms - s.last_in >= (STALLED_FACTOR * self._lost_ms if s.blocked else self._lost_ms)
                    and not (s.paused or s.stalled)):
                s.lose("no answer to pings")
                continue
            if now_ms - s.last_in >= self._ping_ms and not s.pinged and not waiting(&s.outbox):
                s.pinged = True
                s.queue_frame(codec.OP_PING, NULL, 0)
                s.touch()
            if s.heartbeats and now_ms - s.last_out >= self._heartbeat_ms and waiting(&s.outbox) <= 2:
                heartbeat = <bytes>_HEARTBEATS[s.msgpack]
                s.queue_message(<const uint8_t*><const char*>heartbeat, <size_t>len(heartbeat))
            elif now_ms - s.last_out >= self._heartbeat_ms and not waiting(&s.outbox):
                s.queue_frame(codec.OP_PING, NULL, 0)
                s.touch()
        if self.events:
            self.kick()
        return bool(self.dirty)
