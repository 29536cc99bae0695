# cython: language_level=3
"""One socket is sent what waits for it: its outbox, then what its streams hold, many frames at once and none copied.

    pieces   [ outbox ] [ run of stream A ] [ run of stream A, behind a hole ] [ run of stream B ] ...  -> one sendmsg
    sent     -> the outbox and the places move on by that much; a frame cut in two leaves its rest in the outbox

A hole is what a subscription leaves out: frames of its own publisher, or ephemeral ones while it is replayed to. What a rate
forbids just now (a shaper of the socket or of the stream) stays where it is, and the socket is held until its turn comes."""
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset, strerror

from ext.net.kernel cimport MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, c_send, c_sendmsg, c_shutdown, iovec, msghdr, wall_clock_ms
from ext.net.outbox cimport take_bytes, waiting
from ext.log.ring cimport Ring
from ext.log.stream cimport Segment, Stream
from ext.net.shaper cimport Shaper
from ext.net.socket cimport CLOSING, KIND_BEHIND, KIND_DRAINED, SHUT, Sockets

cdef enum:
    MOST_RUNS = 64          # pieces in one send
    SEND_BYTES = 256 * 1024 # of one send: what a socket buffer takes at most, usually
    SHAPED_BYTES = 16 * 1024    # the same under a rate: what passes beyond it makes the next wait for longer
    ROUNDS = 4              # sends to one socket in one pump, so that others get a turn


cdef bint pump(Socket s, Subscription only) except *:
    """Send the outbox, then what the streams hold for this socket (or one of them). True: it takes more, in another turn."""
    cdef Sockets plane = s.plane
    cdef iovec pieces[MOST_RUNS]
    cdef void* readers[MOST_RUNS]
    cdef uint64_t places[MOST_RUNS]
    cdef msghdr message
    cdef uint64_t total, start, size, most
    cdef uint32_t i, count, used
    cdef int rounds
    cdef ssize_t sent
    cdef Subscription reader
    cdef Segment* segment
    for rounds in range(ROUNDS):
        count = 0
        total = 0
        if waiting(&s.outbox):
            total = waiting(&s.outbox)
            pieces[0].iov_base = s.outbox.data + s.outbox.start
            pieces[0].iov_len = total
            readers[0] = NULL
            count = 1
        i = 0
        used = s.subscriptions.count if only is None else 1
        most = SEND_BYTES
        while i < used and count < MOST_RUNS and total < most:
            reader = <Subscription>s.subscriptions.items[i] if only is None else only
            i += 1
            start = reader.place
            if start == reader.stream.head or not reader.active:
                continue
            if start < reader.stream.tail:
                plane.events.append((s.owner, KIND_BEHIND, reader))
                reader.leave()
                used = s.subscriptions.count if only is None else 0
                i -= 1 if only is None else 0       # another one has come to its place
                continue
            if s.shaper is not None or reader.stream.shaper is not None:
                if not _is_open(s, reader.stream):
                    s.hold()
                    continue
                most = SHAPED_BYTES
            while count < MOST_RUNS and total < most:
                size = reader.stream.run(start, most - total, reader.skip_origin, reader.quiet_until, &start)
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
            _after_sending(s)
            return False
        if s.carrier is not None:
            sent = s.carrier.put(pieces, count)
        elif count == 1:
            sent = c_send(s.fd, pieces[0].iov_base, pieces[0].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            memset(&message, 0, sizeof(message))
            message.msg_iov = pieces
            message.msg_iovlen = count
            sent = c_sendmsg(s.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        plane.sends += 1
        if sent < 0:
            if errno == EINTR:
                continue
            if errno != EAGAIN:
                s.lose(strerror(errno).decode())
                return False
            sent = 0
        plane.bytes_out += sent
        if sent:
            s.last_out = plane.now
        _account(s, pieces, readers, places, count, <uint64_t>sent)
        if <uint64_t>sent < total:
            s.blocked = True
            s.arm()
            return False
        if s.is_held or not _more(s, only):
            _after_sending(s)
            return False
    return True


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


cdef void _account(Socket s, iovec* pieces, void** readers, uint64_t* places, uint32_t count, uint64_t sent) except *:
    """Move the outbox and the places on by what was sent."""
    cdef uint32_t i
    cdef uint64_t taken, place, end, n
    cdef Subscription reader
    cdef Segment* segment
    for i in range(count):
        taken = sent if sent < pieces[i].iov_len else pieces[i].iov_len
        sent -= taken
        if readers[i] is NULL:
            take_bytes(&s.outbox, <uint32_t>taken)
            s.plane.waiting -= taken
        elif taken:
            reader = <Subscription>readers[i]
            place = places[i] + taken
            if taken < pieces[i].iov_len:
                n = reader.stream.entry_at(place)
                if reader.stream.start_of(n) != place:      # cut within a frame: its rest becomes the socket's own
                    end = reader.stream.start_of(n + 1)
                    segment = reader.stream.segment_at(place)
                    s.queue(&segment.data[place - segment.start], <size_t>(end - place))
                    place = end
            if s.shaper is not None or reader.stream.shaper is not None:
                _charge(s, reader, place)
            _hand_over(reader, place)
        if taken < pieces[i].iov_len:
            return


cdef bint _is_open(Socket s, Stream stream):
    cdef int64_t now_ms = wall_clock_ms()
    return ((s.shaper is None or s.shaper.is_open(now_ms))
            and (stream.shaper is None or (<Shaper>stream.shaper).is_open(now_ms)))


cdef int _charge(Socket s, Subscription reader, uint64_t place) except -1:
    """What lies before ``place`` is about to be handed over."""
    cdef int64_t now_ms = wall_clock_ms()
    if s.shaper is not None:
        s.shaper.use_frames(now_ms, reader.stream, reader.place, place, reader.skip_origin)
    if reader.stream.shaper is not None:
        (<Shaper>reader.stream.shaper).use_frames(now_ms, reader.stream, reader.place, place, reader.skip_origin)
    return 0


cdef void _after_sending(Socket s) except *:
    """Everything has left."""
    if waiting(&s.outbox):
        return
    s.arm()
    if s.want_drained and s.owner is not None:
        s.want_drained = False
        s.plane.events.append((s.owner, KIND_DRAINED, None))
    if s.state == CLOSING:
        s.state = SHUT
        if s.carrier is None:
            c_shutdown(s.fd, SHUT_WR)
        else:
            s.carrier.finish()


cdef void _hand_over(Subscription reader, uint64_t place):
    """The one line where a cursor moves: what lies before ``place`` is the socket's now."""
    cdef Ring ring = reader.stream.ring
    cdef uint64_t n
    reader.place = place
    if place == reader.stream.head:
        reader.last = ring._slots[ring.newest & ring._mask].serial if ring.newest >= ring.oldest else ring.evicted
    else:
        n = reader.stream.entry_at(place) - 1
        reader.last = ring._slots[n & ring._mask].serial if n >= ring.oldest else ring.evicted
