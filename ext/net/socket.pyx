# cython: language_level=3
"""One WebSocket connection: its output, the streams it reads, and its end.

    Sockets          all sockets of one plane, their registration with epoll, and their events
      Socket         a descriptor, a decoder (memory only while a frame is incomplete), an outbox (its own output)
        Subscription     a reader of a stream: a place in it, and the serial that belongs to the place

    order on a socket:  the outbox first, then the streams; so a reply queued before a subscription starts arrives first

Frames that a slow reader has not taken stay in the stream, which all readers share. Only the rest of a frame that a
short write cut in two is copied to the outbox, so that a place is always a frame's beginning.

Nothing here sends or receives: ext/net/receive.pyx reads, ext/net/send.pyx sends, ext/net/plane.pyx decides when. A
socket with TLS has a cipher (ext/net/cipher.pyx), and is otherwise like all others. A socket can also be the client
side: added as ``client``, it masks its output. It follows no streams, but may have a sink."""
cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport errno
from libc.stdlib cimport free
from libc.string cimport strerror

from os import urandom

from ext.log cimport bag
from ext.wire cimport frame as codec
from ext.net.kernel cimport (EFD_CLOEXEC, EFD_NONBLOCK, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT,
                         c_close, c_write, epoll_create1, epoll_ctl, epoll_event, eventfd)
from ext.wire.mask cimport apply_mask
from ext.net.outbox cimport put_bytes, waiting


cdef class Sockets:
    """The sockets of one plane, which derives from this. ``fd`` is readable when one of them needs attention."""

    def __cinit__(self):
        self.kick_fd = self.done_fd = -1
        self.fd = epoll_create1(EPOLL_CLOEXEC)
        if self.fd < 0:
            raise OSError(errno, "epoll_create1: " + strerror(errno).decode())
        self.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.kick_fd < 0 or self.done_fd < 0:
            raise OSError(errno, "eventfd: " + strerror(errno).decode())
        self.register(self.kick_fd, &self.kick_fd)
        self.register(self.done_fd, &self.done_fd)
        self.mask_state = int.from_bytes(urandom(8), "little") | 1
        self.events = []
        self.dirty = []
        self.held = []

    def __dealloc__(self):
        free(self.members.items)
        if self.kick_fd >= 0:
            c_close(self.kick_fd)
        if self.done_fd >= 0:
            c_close(self.done_fd)
        if self.fd >= 0:
            c_close(self.fd)

    def __len__(self):
        return self.members.count

    @property
    def holding(self):
        """Are there deliveries that wait for their turn? A flush sends them when it has come."""
        return len(self.held) > 0

    def kick(self):
        """Make the next wait for ``fd`` return at once."""
        cdef uint64_t one = 1
        c_write(self.kick_fd, &one, sizeof(one))

    def listen_to(self, int fd):
        """While ``fd`` (the caller keeps it) is readable, so is the plane's own, and no poll waits: they set ``heard``."""
        self.register(fd, &self.heard)

    cdef int register(self, int fd, void* mark) except -1:
        """Watch a descriptor that is no socket's; ``mark`` is what epoll reports for it, a place in this object."""
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.ptr = mark
        if epoll_ctl(self.fd, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "epoll_ctl: " + strerror(errno).decode())
        return 0

    def close(self):
        """End every connection at once, without a close frame."""
        while self.members.count:
            (<Socket>self.members.items[self.members.count - 1]).abort()

    cdef int join(self, Socket s) except -1:
        """Add a socket, and register it with epoll."""
        bag.make_room(&self.members)
        self.watch(s)
        s.state = OPEN
        s.at = bag.put(&self.members, <void*>s)
        self.accepted += 1
        Py_INCREF(s)                    # the bag's reference; returned by ``remove``
        return 0

    cdef int watch(self, Socket s) except -1:
        cdef epoll_event event
        s.watched = event.events = EPOLLIN
        event.data.ptr = <void*>s
        if epoll_ctl(self.fd, EPOLL_CTL_ADD, s.fd, &event) < 0:
            raise OSError(errno, "epoll_ctl: " + strerror(errno).decode())
        return 0


@cython.final
@cython.no_gc_clear
cdef class Socket:
    """One WebSocket connection. Made by ``Plane.add``; any other is closed from the beginning."""

    def __cinit__(self):
        self.fd = -1
        self.state = CLOSED

    def send(self, bytes payload not None):
        """Queue one message in the socket's own format; the next flush sends it."""
        self.queue_message(<const uint8_t*><const char*>payload, <size_t>len(payload))

    def send_frames(self, bytes frames not None):
        """Queue complete frames (masked ones, if this side is the client)."""
        if self.state == OPEN:
            self.queue(<const uint8_t*><const char*>frames, <size_t>len(frames))
            self.touch()

    def deliver_to(self, Sink sink):
        """From now on its messages go to ``sink`` first (None: to no sink)."""
        self.sink = sink

    def shape(self, Shaper shaper):
        """From now on deliveries keep to these rates (None: no rates)."""
        self.shaper = shaper
        if self.state == OPEN:
            self.touch()

    def notify_drained(self):
        """Ask for one DRAINED event when everything queued has been sent."""
        if self.state == OPEN:
            self.want_drained = True
            self.touch()

    def subscribe(self, Stream stream not None, uint64_t place, *, uint64_t skip_origin=0, uint64_t quiet_until=0):
        """Read ``stream`` from ``place`` (a frame's beginning, held now), without the frames of ``skip_origin``,
        and without ephemeral ones before ``quiet_until``. On a closed socket it returns a reader that is not active."""
        cdef object cursor = stream.cursor_at(place)
        if cursor is None or place > stream.head:
            raise ValueError(f"place {place} is not held: {stream.tail} to {stream.head}")
        cdef Subscription reader = Subscription.__new__(Subscription)
        reader.stream = stream
        reader.socket = self
        reader.place = place
        reader.last = cursor
        reader.skip_origin = skip_origin
        reader.quiet_until = quiet_until
        if self.state != OPEN:          # it has been lost, and its owner learns of it with the next poll
            return reader
        bag.make_room(&self.subscriptions)
        bag.make_room(&stream.readers)
        reader.at_socket = bag.put(&self.subscriptions, <void*>reader)
        reader.at_stream = bag.put(&stream.readers, <void*>reader)
        reader.active = True
        Py_INCREF(reader)               # the two bags' references; returned by ``leave``
        if place < stream.head:
            self.touch()
        return reader

    @property
    def silence_ms(self):
        """Time since the peer's last input; 0 while it is not read from."""
        return 0 if self.paused or self.stalled else self.plane.now - self.last_in

    def pause(self):
        """Read no more from the peer until ``resume``: its sends will wait."""
        self.paused = True
        if self.state == OPEN:
            self.arm()

    def resume(self):
        if self.paused:
            self.paused = False
            self.last_in = self.plane.now       # we did not listen meanwhile
        if self.state == OPEN:
            self.arm()

    def stall(self, bint waits):
        """``waits``: events of it have not been processed. It is not read from while they wait."""
        self.stalled = waits
        if self.state == OPEN:
            self.last_in = self.plane.now       # we did not listen meanwhile
            self.arm()

    def close(self, int code, str reason=""):
        """Send what is queued and a close frame, then end. No event of this socket comes after this call.

        Raises: ValueError, for a code that may not be sent (RFC 6455, section 7.4).
        """
        cdef bytes body = codec.close_body(code, reason)
        if self.state != OPEN:
            return
        self._leave_streams()
        self.queue_frame(codec.OP_CLOSE, <const uint8_t*><const char*>body, <size_t>len(body))
        self.state = CLOSING
        self.owner = None
        self.touch()

    def abort(self):
        """End at once; nothing more is sent. No event of this socket comes after this call."""
        self.owner = None
        self.remove()

    @property
    def queued(self):
        """Bytes in this socket's own queue."""
        return waiting(&self.outbox)

    @property
    def closed(self):
        return self.state != OPEN

    cdef int queue(self, const uint8_t* data, size_t size) except -1:
        put_bytes(&self.outbox, data, size)
        self.plane.waiting += size
        return 0

    cdef int queue_frame(self, int opcode, const uint8_t* payload, size_t size) except -1:
        """Queue one complete frame, masked if this side is the client."""
        cdef uint8_t header[codec.LONGEST_HEADER]
        cdef int used
        if self.client:
            used = codec.write_masked_header(header, opcode, size, &self.plane.mask_state)
        else:
            used = codec.write_header(header, opcode, size)
        put_bytes(&self.outbox, header, <size_t>used)
        put_bytes(&self.outbox, payload, size)
        self.plane.waiting += <size_t>used + size
        if self.client:
            apply_mask(self.outbox.data + self.outbox.end - size, size, header + used - 4)
        return 0

    cdef int queue_message(self, const uint8_t* payload, size_t size) except -1:
        """Queue one message in the socket's own format, if the socket is open."""
        if self.state == OPEN:
            self.queue_frame(codec.OP_BINARY if self.msgpack else codec.OP_TEXT, payload, size)
            self.touch()
        return 0

    cdef void touch(self):
        """There is something to send or to check: the next flush looks."""
        if not self.is_dirty:
            self.is_dirty = True
            self.plane.dirty.append(self)

    cdef void hold(self):
        """Deliveries from its streams must wait for their turn."""
        if not self.is_held:
            self.is_held = True
            self.plane.held.append(self)

    cdef void arm(self):
        """Tell epoll which events we wait for."""
        cdef uint32_t wanted = EPOLLOUT if self.blocked else 0
        cdef epoll_event event
        if self.state != OPEN or not (self.paused or self.stalled or waiting(&self.outbox) > OUTBOX_HIGH):
            wanted |= EPOLLIN
        if wanted != self.watched:
            self.watched = wanted
            event.events = wanted
            event.data.ptr = <void*>self
            epoll_ctl(self.plane.fd, EPOLL_CTL_MOD, self.fd, &event)

    cdef void lose(self, str reason):
        """It has ended, or has to: tell its owner."""
        if self.owner is not None:
            self.plane.events.append((self.owner, KIND_GONE, reason))
            self.owner = None
        self.remove()

    cdef void remove(self):
        cdef Sockets plane = self.plane
        cdef void* other
        if self.state == CLOSED:
            return
        self.state = CLOSED
        self._leave_streams()
        c_close(self.fd)                # this also removes it from epoll
        self.fd = -1
        self.cipher = None
        self.sink = None
        plane.waiting -= waiting(&self.outbox)
        self.outbox.start = self.outbox.end = 0
        codec.decoder_free(&self.decoder)
        self.count_parts()
        other = bag.take_out(&plane.members, self.at)
        if other is not NULL:
            (<Socket>other).at = self.at
        Py_DECREF(self)

    cdef bint count_parts(self) except -1:
        """Count what its decoder holds by now. Returns False if there is no memory for it."""
        cdef uint32_t size = self.decoder.partial_room + self.decoder.message_room
        cdef Room parts = self.plane.parts
        if parts is None or size == self.counted:
            return True
        if size > self.counted and not parts.take(self.counted, size - self.counted):
            return False
        if size < self.counted:
            parts.held -= self.counted - size
        self.counted = size
        return True

    cdef void _leave_streams(self):
        while self.subscriptions.count:
            (<Subscription>self.subscriptions.items[self.subscriptions.count - 1]).leave()

    def __dealloc__(self):
        codec.decoder_free(&self.decoder)
        free(self.outbox.data)
        free(self.subscriptions.items)
        if self.fd >= 0:
            c_close(self.fd)


@cython.final
@cython.no_gc_clear
cdef class Subscription(Reader):
    """A reader of one stream on one socket. Made by ``Socket.subscribe``; it reads until ``stop``."""

    @property
    def cursor(self):
        """Serial of the last entry that was handed to the socket (or passed over)."""
        return self.last

    def stop(self):
        """Read no further. What was handed to the socket is still sent."""
        if self.active:
            self.leave()

    cdef void leave(self):
        cdef void* other
        self.active = False
        other = bag.take_out(&self.stream.readers, self.at_stream)
        if other is not NULL:
            (<Subscription>other).at_stream = self.at_stream
            if self.stream.moved:
                (<Subscription>other).socket.touch()    # it may have moved from the unserved part into the served part
        other = bag.take_out(&self.socket.subscriptions, self.at_socket)
        if other is not NULL:
            (<Subscription>other).at_socket = self.at_socket
        Py_DECREF(self)
