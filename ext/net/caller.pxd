from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext.net.answer cimport Answer
from ext.net.http_head cimport Head
from ext.net.http_request cimport Found, Progress
from ext.net.inbox cimport Inbox
from ext.net.outbox cimport Outbox
from ext.net.permit cimport Permit, Place
from ext.net.room cimport Room
from ext.text.output cimport Out

cdef enum State:            # see the table in ext/net/caller.pyx
    READING = 0
    QUEUED = 1
    ASKED = 2
    KNOWN = 3
    SENDING = 4
    ENDING = 5
    CLOSED = 6

cdef enum Move:             # what the holder of a Caller is to do next
    STAYS = 0
    GOES_ON = 1             # it is QUEUED now
    LEAVES = 2
    ENDS = 3

cdef enum:                  # results of ``receive`` when no bytes have come
    AT_END = 0              # and none will come
    NOTHING = -1
    BROKEN = -2


cdef class Caller:
    cdef readonly str peer
    cdef readonly bint trusted      # may send a key over it
    cdef State state
    cdef int64_t since_ms           # since when it has been idle, sending a request, or taking an answer
    cdef list _told                 # the list of callers that have something to send
    cdef int _epoll, _fd
    cdef uint32_t _mask             # the events registered with epoll
    cdef bint _ended                # the peer will send no more
    cdef Room _room                 # counts the bytes of ``inbox``
    cdef Inbox _inbox
    cdef Progress _progress         # of the first request in the inbox
    cdef size_t _taken              # bytes of the request, once Python has been asked about it
    cdef Answer _answer
    cdef Outbox _outbox             # the rest of the answer
    cdef size_t _thrown_away        # bytes, while ENDING

    cdef bint is_empty(self) noexcept
    cdef bint is_reading(self) noexcept
    cdef bytes held(self, size_t max_bytes)
    cdef bint enter(self, int epoll, int fd) noexcept
    cdef int leave(self) noexcept
    cdef void close(self) noexcept
    # its input
    cdef ssize_t receive(self, uint8_t* buffer, size_t room) noexcept
    cdef void begin(self, int64_t now_ms) noexcept
    cdef Found read(self, const uint8_t* data, size_t size, size_t max_head, size_t max_body, Head* head) noexcept
    cdef Found read_held(self, size_t max_head, size_t max_body, Head* head) noexcept
    cdef bint hold(self, const uint8_t* data, size_t size, bint leaving) except -1
    cdef void drop(self, size_t size) noexcept
    cdef Move await_more(self, bint answers_late) noexcept
    cdef Move meet_end(self, bint broken, bint answers_late) noexcept
    cdef void pause_if_ahead(self)
    # outcomes
    cdef void ask(self, size_t taken) noexcept
    cdef void staged(self, Permit permit, Place place, bytes message_id, bint named) noexcept
    cdef Permit write_answer(self, Out* out, bytes date, bint last)
    cdef Move send(self, const uint8_t* data, size_t size, bint last, int64_t now_ms) except? ENDS
    cdef Move send_more(self, bint last, int64_t now_ms) noexcept
    # its end
    cdef void turn_away(self, int64_t now_ms) noexcept
    cdef Move refuse(self, bytes response) except? ENDS
    cdef Move linger(self, uint32_t events, uint8_t* buffer, size_t room) noexcept
    # private
    cdef int _know(self) except -1
    cdef bint _is_cut(self, bint answers_late) noexcept
    cdef ssize_t _send_waiting(self) noexcept
    cdef Move _send_last(self) noexcept
    cdef Move _next_request(self, bint last, int64_t now_ms) noexcept
    cdef void _arm(self, uint32_t wanted) noexcept
    cdef void _finish(self) noexcept


cdef Caller new_caller(list told, Room room, str peer, bint trusted, int64_t now_ms)
