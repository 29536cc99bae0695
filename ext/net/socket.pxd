from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext.net.cipher cimport Cipher
from ext.wire.frame cimport Decoder
from ext.net.outbox cimport Outbox
from ext.log.bag cimport Bag
from ext.log.stream cimport Reader, Stream
from ext.net.room cimport Room
from ext.net.shaper cimport Shaper
from ext.net.sink cimport Sink


cdef enum:                  # kinds of event, and the type of the third member
    KIND_TEXT = 1           # bytes
    KIND_BINARY = 2         # bytes
    KIND_GONE = 3           # a reason
    KIND_VIOLATION = 4      # a close code
    KIND_BEHIND = 5         # a Subscription
    KIND_DRAINED = 6        # None
    KIND_FAILED = 7         # an exception, of the sink: a bug

    CODE_NO_ROOM = 1013     # close code, not for a violation: no memory for the rest of an incomplete message


cdef enum:                  # a socket's states
    OPEN = 0
    CLOSING = 1             # our close frame is queued; further input is discarded
    SHUT = 2                # it has been sent; waiting for the peer to close
    CLOSED = 3

    OUTBOX_HIGH = 256 * 1024    # no reading from a peer that leaves this much of our replies unread


cdef class Sockets:
    cdef readonly int fd
    cdef readonly int kick_fd           # an eventfd: writing to it ends a wait, from any thread: there is something to do
    cdef readonly int done_fd           # the same, from a thread whose result is all that there is to look at
    cdef readonly bint kicked, heard    # the last poll found a kick; input on a descriptor listened to
    cdef readonly uint64_t messages_in, bytes_in, sends, bytes_out, accepted
    cdef Bag members                    # Sockets, with a reference to each
    cdef list events                    # for the next poll to return
    cdef list dirty                     # sockets with something to send or to check
    cdef list held                      # sockets whose deliveries wait for their turn, longest wait first
    cdef int64_t released_ms            # when these were last looked at
    cdef int64_t now                    # ms
    cdef uint64_t polls                 # number of polls
    cdef uint64_t mask_state
    cdef readonly uint64_t waiting      # bytes in all outboxes
    cdef uint64_t max_waiting          # limit of that; beyond it, sockets that leave the most unread are dropped
    cdef Room parts                     # counts incomplete messages; None: no limit

    cdef int register(self, int fd, void* mark) except -1
    cdef int join(self, Socket s) except -1
    cdef int watch(self, Socket s) except -1


cdef class Socket:
    cdef Sockets plane
    cdef readonly object owner          # receives its events; None once it is closed
    cdef Sink sink                      # or None
    cdef uint64_t told_in               # the last poll that made an event of one of its messages
    cdef readonly Shaper shaper         # when deliveries may be sent; None: at once
    cdef bint is_held                   # they wait for that
    cdef int fd
    cdef Cipher cipher                  # or None
    cdef uint8_t state
    cdef bint msgpack, heartbeats, paused, blocked, is_dirty, want_drained, pinged, client
    cdef bint stalled                   # events of it have not been processed yet: it is not read from
    cdef uint32_t watched               # the events registered with epoll
    cdef uint32_t at                    # index among the members
    cdef Outbox outbox
    cdef int64_t last_in, last_out      # ms
    cdef Bag subscriptions
    cdef Decoder decoder
    cdef uint32_t counted               # bytes of its decoder that count in the plane's ``parts``

    cdef int queue(self, const uint8_t* data, size_t size) except -1
    cdef int queue_frame(self, int opcode, const uint8_t* payload, size_t size) except -1
    cdef int queue_message(self, const uint8_t* payload, size_t size) except -1
    cdef void touch(self)
    cdef void hold(self)
    cdef void arm(self)
    cdef void lose(self, str reason)
    cdef void remove(self)
    cdef bint count_parts(self) except -1
    cdef void _leave_streams(self)


cdef class Subscription(Reader):
    cdef readonly Stream stream
    cdef readonly bint active
    cdef Socket socket
    cdef uint64_t last              # serial of the last entry before ``place``
    cdef uint64_t skip_origin
    cdef uint64_t quiet_until
    cdef uint32_t at_stream         # index in stream.readers
    cdef uint32_t at_socket         # index in socket.subscriptions

    cdef void leave(self)
