# cython: language_level=3
"""Send a socket what waits for it: its outbox, then its streams' frames, many at once and without copying.

    pieces   [ outbox ] [ run of stream A ] [ run of stream A, after a hole ] [ run of stream B ] ...  -> one sendmsg
    sent     -> the outbox and the places advance by that much; the rest of a frame cut in two goes to the outbox

A hole is what a subscription leaves out: frames of its own publisher, or ephemeral ones while it is replayed to. Frames
beyond a rate (a shaper of the socket or of the stream) stay where they are, and the socket is held until its turn."""
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset, strerror

from ext.net.kernel cimport MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, c_send, c_sendmsg, c_shutdown, iovec, msghdr, wall_clock_ms
from ext.net.cipher cimport SEALED_BYTES
from ext.net.outbox cimport take_bytes, waiting
from ext.log.ring cimport Ring
from ext.log.stream cimport Segment, Stream
from ext.net.shaper cimport Shaper
from ext.net.socket cimport CLOSING, KIND_BEHIND, KIND_DRAINED, SHUT

cdef enum:
    MAX_PIECES = 64         # in one send
    SEND_BYTES = 256 * 1024 # of one send: usually the most that a socket buffer takes
    SHAPED_BYTES = 16 * 1024    # the same under a rate: bytes beyond it prolong the next wait
    ROUNDS = 4              # sends to one socket in one pump, so that others get a turn


cdef struct Batch:          # the arguments of one send
    iovec pieces[MAX_PIECES]
    void* readers[MAX_PIECES]       # each piece's Subscription; NULL: the outbox
    uint64_t places[MAX_PIECES]     # its beginning in the reader's stream
    uint32_t count
    uint64_t total, limit           # bytes; no piece begins beyond the limit


cdef bint pump(Socket s, Subscription only) except *:
    """Send the outbox, then the streams' frames for this socket (or one of them). True: it takes more in another
    turn."""
    cdef Batch batch
    cdef int rounds
    cdef ssize_t sent
    cdef bint waits
    if s.cipher is not None and not _sent_rest(s):
        return False
    for rounds in range(ROUNDS):
        _gather(s, only, &batch)
        if batch.count == 0:
            _after_sending(s)
            return False
        sent = _send(s, &batch)
        s.plane.sends += 1
        if sent < 0:
            if errno == EINTR:
                continue
            if errno != EAGAIN:
                s.lose(strerror(errno).decode())
                return False
            sent = 0
        s.plane.bytes_out += sent
        if sent:
            s.last_out = s.plane.now
        _account(s, &batch, <uint64_t>sent)
        waits = <uint64_t>sent < batch.total if s.cipher is None else s.cipher.has_records()
        if waits:
            s.blocked = True
            s.arm()
            return False
        if s.is_held or not _more(s, only):
            _after_sending(s)
            return False
    return True


cdef inline int _gather(Socket s, Subscription only, Batch* batch) except -1:
    """Collect what is to be sent next."""
    cdef Subscription reader
    cdef uint32_t i = 0
    batch.count = 0
    batch.total = 0
    batch.limit = SEND_BYTES if s.cipher is None else SEALED_BYTES
    if waiting(&s.outbox):
        _put(batch, s.outbox.data + s.outbox.start, waiting(&s.outbox), NULL, 0)
    if only is not None:
        if not _is_full(batch):
            _add(s, only, batch)
        return 0
    while i < s.subscriptions.count and not _is_full(batch):
        reader = <Subscription>s.subscriptions.items[i]
        if _add(s, reader, batch):
            i += 1                          # else another one has moved into its place
    return 0


cdef inline bint _is_full(const Batch* batch) noexcept nogil:
    return batch.count == MAX_PIECES or batch.total >= batch.limit


cdef inline void _put(Batch* batch, uint8_t* data, uint64_t size, void* reader, uint64_t place) noexcept nogil:
    batch.pieces[batch.count].iov_base = data
    batch.pieces[batch.count].iov_len = size
    batch.readers[batch.count] = reader
    batch.places[batch.count] = place
    batch.count += 1
    batch.total += size


cdef inline int _add(Socket s, Subscription reader, Batch* batch) except -1:
    """Add its stream's frames for this reader, if they may be sent now. 0: it was behind, and has left the stream."""
    cdef Stream stream = reader.stream
    if reader.place == stream.head or not reader.active:
        return 1
    if reader.place < stream.tail:
        s.plane.events.append((s.owner, KIND_BEHIND, reader))
        reader.leave()
        return 0
    if s.shaper is not None or stream.shaper is not None:
        if not _is_open(s, stream):
            s.hold()
            return 1
        batch.limit = SHAPED_BYTES
    _add_runs(reader, stream, batch)
    return 1


cdef inline int _add_runs(Subscription reader, Stream stream, Batch* batch) except -1:
    cdef uint64_t start = reader.place, size
    cdef Segment* segment
    while not _is_full(batch):
        size = stream.run(start, batch.limit - batch.total, reader.skip_origin, reader.quiet_until, &start)
        if size == 0:                       # no more frames for it
            if batch.count == 0 or batch.readers[batch.count - 1] != <void*>reader:
                _hand_over(reader, stream.head)
            return 0
        segment = stream.segment_at(start)
        _put(batch, &segment.data[start - segment.start], size, <void*>reader, start)
        start += size
        if start == stream.head:
            return 0
    return 0


cdef inline ssize_t _send(Socket s, Batch* batch) except? -2:
    """Returns the number of bytes sent; -1: see errno."""
    cdef msghdr message
    if s.cipher is not None:
        return s.cipher.seal_and_send(s.fd, batch.pieces, batch.count)
    if batch.count == 1:
        return c_send(s.fd, batch.pieces[0].iov_base, batch.pieces[0].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL)
    memset(&message, 0, sizeof(message))
    message.msg_iov = batch.pieces
    message.msg_iovlen = batch.count
    return c_sendmsg(s.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)


cdef bint _more(Socket s, Subscription only):
    cdef uint32_t i
    cdef Subscription reader
    if waiting(&s.outbox):
        return True
    if only is not None:
        return only.active and only.place != only.stream.head
    for i in range(s.subscriptions.count):
        reader = <Subscription>s.subscriptions.items[i]
        if reader.place != reader.stream.head:
            return True
    return False


cdef void _account(Socket s, Batch* batch, uint64_t sent) except *:
    """Advance the outbox and the places by what was sent."""
    cdef uint32_t i
    cdef uint64_t taken, place, end, n
    cdef Subscription reader
    cdef Segment* segment
    for i in range(batch.count):
        taken = sent if sent < batch.pieces[i].iov_len else batch.pieces[i].iov_len
        sent -= taken
        if batch.readers[i] is NULL:
            take_bytes(&s.outbox, <uint32_t>taken)
            s.plane.waiting -= taken
        elif taken:
            reader = <Subscription>batch.readers[i]
            place = batch.places[i] + taken
            if taken < batch.pieces[i].iov_len:
                n = reader.stream.entry_at(place)
                if reader.stream.start_of(n) != place:      # cut within a frame: the rest moves to the outbox
                    end = reader.stream.start_of(n + 1)
                    segment = reader.stream.segment_at(place)
                    s.queue(&segment.data[place - segment.start], <size_t>(end - place))
                    place = end
            if s.shaper is not None or reader.stream.shaper is not None:
                _charge(s, reader, place)
            _hand_over(reader, place)
        if taken < batch.pieces[i].iov_len:
            return


cdef bint _is_open(Socket s, Stream stream):
    cdef int64_t now_ms = wall_clock_ms()
    return ((s.shaper is None or s.shaper.is_open(now_ms))
            and (stream.shaper is None or (<Shaper>stream.shaper).is_open(now_ms)))


cdef int _charge(Socket s, Subscription reader, uint64_t place) except -1:
    """Charge the rates for what lies before ``place``, which is about to be handed over."""
    cdef int64_t now_ms = wall_clock_ms()
    if s.shaper is not None:
        s.shaper.use_frames(now_ms, reader.stream, reader.place, place, reader.skip_origin)
    if reader.stream.shaper is not None:
        (<Shaper>reader.stream.shaper).use_frames(now_ms, reader.stream, reader.place, place, reader.skip_origin)
    return 0


cdef void _after_sending(Socket s) except *:
    """Everything has been sent."""
    if waiting(&s.outbox):
        return
    s.arm()
    if s.want_drained and s.owner is not None:
        s.want_drained = False
        s.plane.events.append((s.owner, KIND_DRAINED, None))
    if s.state == CLOSING:
        if s.cipher is not None:
            s.cipher.say_end()
            if not _sent_rest(s):           # then we get here again
                return
        s.state = SHUT
        c_shutdown(s.fd, SHUT_WR)


cdef bint _sent_rest(Socket s) except *:
    """Have all sealed records left? If not, the socket waits for the peer to read, or is lost."""
    cdef int done = s.cipher.send_rest(s.fd)
    if done < 0:
        s.lose(strerror(errno).decode())
    elif done == 0:
        s.blocked = True
        s.arm()
    return done > 0


cdef void _hand_over(Subscription reader, uint64_t place):
    """The only line that moves a cursor: the socket now has all that lies before ``place``."""
    cdef Ring ring = reader.stream.ring
    cdef uint64_t n
    reader.place = place
    if place == reader.stream.head:
        reader.last = ring._slots[ring.newest & ring._mask].serial if ring.newest >= ring.oldest else ring.evicted
    else:
        n = reader.stream.entry_at(place) - 1
        reader.last = ring._slots[n & ring._mask].serial if n >= ring.oldest else ring.evicted
