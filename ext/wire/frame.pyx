# cython: language_level=3, auto_pickle=False, autotestdict=False
"""WebSocket frames (RFC 6455), sans-IO: bytes to messages, and messages to frames.

    0        1        2 ..                        a frame
    F RRR oooo | M lllllll | (16 or 64 bits of length) | (mask key, 4) | payload

    complete in the input   unmasked in place, returned as a pointer: no copy
    incomplete              kept in ``partial`` until the rest comes; grows with the input, not to the announced size
    fragmented              copied, unmasked, to ``message``, returned with the last fragment

    memory, at most         ``partial`` <= limit + a header, ``message`` <= limit, together <= 2 * limit + a header;
                            none between messages

The plane runs this core on its receive buffer; ``FrameDecoder`` wraps the same core for other callers. Strict: anything
that the RFC forbids is an error with the close code from the RFC, and nothing after it is read."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from ext.wire.mask cimport apply_mask, fill_mask
from ext.text.utf8 cimport is_utf8

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, ERROR = 0, 1, 2, 8, 9, 10, -1

cdef enum:
    LONGEST_CONTROL = 125       # RFC 6455, section 5.5
    FIRST_PARTIAL = 256         # most incomplete frames are small; for a larger one it doubles
    LARGEST_LIMIT = 0x7FFFFFFF  # of max_message: sizes are 32 bits wide, and include a header

    PROTOCOL_ERROR = 1002       # RFC 6455, section 7.4.1
    NO_CODE = 1005
    BAD_TEXT = 1007
    TOO_BIG = 1009
    NO_MEMORY = 1011

cdef struct Header:
    uint8_t opcode, fin, size, masked
    uint8_t key[4]
    uint64_t length


cdef int _read_header(const Decoder* d, const uint8_t* data, size_t size, Header* h) noexcept nogil:
    """0: incomplete; 1: complete and valid; otherwise a negated close code.

    All checks of a header are made here, before a byte of its payload is kept."""
    cdef int i, at = 2
    if size < 2:
        return 0
    h.fin = data[0] >> 7
    h.opcode = data[0] & 15
    h.masked = data[1] >> 7
    h.length = data[1] & 127
    if data[0] & 0x70 or 2 < h.opcode < 8 or h.opcode > 10:
        return -PROTOCOL_ERROR
    if h.opcode >= 8 and (not h.fin or h.length > LONGEST_CONTROL):
        return -PROTOCOL_ERROR
    if h.opcode < 8 and (h.opcode == OP_CONTINUATION) != (d.opcode != 0):
        return -PROTOCOL_ERROR                  # nothing to continue, or an unfinished message (section 5.4)
    if h.masked == d.client_side:               # clients mask, servers do not (section 5.1)
        return -PROTOCOL_ERROR
    if h.length == 126:
        if size < 4:
            return 0
        h.length = <uint64_t>data[2] << 8 | data[3]
        if h.length < 126:                      # "the minimal number of bytes MUST be used" (section 5.2)
            return -PROTOCOL_ERROR
        at = 4
    elif h.length == 127:
        if size < 10:
            return 0
        h.length = 0
        for i in range(2, 10):
            h.length = h.length << 8 | data[i]
        if h.length >> 63 or h.length < 65536:
            return -PROTOCOL_ERROR
        at = 10
    if h.opcode < 8 and h.length > d.max_message - d.message_size:
        return -TOO_BIG
    if h.masked:
        if size < <size_t>(at + 4):
            return 0
        memcpy(h.key, data + at, 4)
        at += 4
    h.size = <uint8_t>at
    return 1


cdef bint _is_close_code(uint16_t code) noexcept nogil:
    """May a peer send it? Section 7.4; 1004, 1005, 1006 and 1015 are never on the wire."""
    return (1000 <= code <= 1003) or (1007 <= code <= 1014) or (3000 <= code <= 4999)


cdef void decoder_init(Decoder* d, uint32_t max_message, bint client_side) noexcept nogil:
    memset(d, 0, sizeof(Decoder))
    d.max_message = max_message if max_message < LARGEST_LIMIT else LARGEST_LIMIT
    d.client_side = client_side


cdef void _drop_partial(Decoder* d) noexcept nogil:
    free(d.partial)
    d.partial = NULL
    d.partial_size = d.partial_room = 0
    d.partial_spent = False


cdef void _drop_message(Decoder* d) noexcept nogil:
    free(d.message)
    d.message = NULL
    d.message_size = d.message_room = 0
    d.message_spent = False


cdef void decoder_free(Decoder* d) noexcept nogil:
    """Free all memory; may be called twice."""
    _drop_partial(d)
    _drop_message(d)
    d.opcode = 0


cdef int _need_more(Event* event) noexcept nogil:
    event.kind = EV_NEED_MORE
    event.data = NULL
    event.size = 0
    event.code = 0
    return EV_NEED_MORE


cdef int _fail(Decoder* d, Event* event, uint16_t code) noexcept nogil:
    decoder_free(d)
    d.ended = True
    event.kind = EV_ERROR
    event.code = code
    event.data = NULL
    event.size = 0
    return EV_ERROR


cdef int _append(uint8_t** buffer, uint32_t* used, uint32_t* room, const uint8_t* data, size_t size,
                 uint64_t most) noexcept nogil:
    """Append. Capacity doubles, up to ``most``; the caller has checked that used + size <= most. False: no memory."""
    cdef uint64_t wanted = room[0]
    cdef uint8_t* grown
    if room[0] - used[0] < size:
        if wanted == 0:
            wanted = FIRST_PARTIAL
        while wanted < used[0] + size:
            wanted *= 2
        if wanted > most:
            wanted = most
        grown = <uint8_t*>realloc(buffer[0], <size_t>wanted)
        if grown is NULL:
            return False
        buffer[0] = grown
        room[0] = <uint32_t>wanted
    memcpy(buffer[0] + used[0], data, size)
    used[0] += <uint32_t>size
    return True


cdef int _hand_up(Decoder* d, Header* h, uint8_t* payload, Event* event) noexcept nogil:
    """Return a complete frame as an event, or EV_NEED_MORE if it is a fragment and not the last."""
    cdef size_t size = <size_t>h.length
    cdef uint8_t opcode
    if h.masked:
        apply_mask(payload, size, h.key)
    event.data = payload
    event.size = size
    event.code = 0
    if h.opcode == OP_PING or h.opcode == OP_PONG:
        event.kind = EV_PING if h.opcode == OP_PING else EV_PONG
        return event.kind
    if h.opcode == OP_CLOSE:
        event.code = NO_CODE
        if size == 1:
            return _fail(d, event, PROTOCOL_ERROR)
        if size >= 2:
            event.code = <uint16_t>(<uint16_t>payload[0] << 8 | payload[1])
            if not _is_close_code(event.code):
                return _fail(d, event, PROTOCOL_ERROR)
            event.data = payload + 2
            event.size = size - 2
            if not is_utf8(event.data, event.size):
                return _fail(d, event, BAD_TEXT)
        d.ended = True
        _drop_message(d)                        # a fragmented message that will never be complete
        event.kind = EV_CLOSE
        return EV_CLOSE
    opcode = h.opcode if h.opcode else d.opcode
    if not h.fin or d.opcode:
        if size and not _append(&d.message, &d.message_size, &d.message_room, payload, size, d.max_message):
            return _fail(d, event, NO_MEMORY)
        d.opcode = opcode
        if not h.fin:
            return EV_NEED_MORE
        d.opcode = 0
        if d.message is not NULL:               # else all fragments were empty, including this one
            event.data = d.message
            event.size = d.message_size
            d.message_spent = True
    if opcode == OP_TEXT and not is_utf8(event.data, event.size):
        return _fail(d, event, BAD_TEXT)
    event.kind = EV_TEXT if opcode == OP_TEXT else EV_BINARY
    return event.kind


cdef bint _keep(Decoder* d, const uint8_t* data, size_t size) noexcept nogil:
    """Append to the incomplete frame; its header, as far as it has come, is valid."""
    cdef uint64_t longest = d.max_message if d.max_message > LONGEST_CONTROL else LONGEST_CONTROL
    return _append(&d.partial, &d.partial_size, &d.partial_room, data, size, longest + LONGEST_HEADER)


cdef int decoder_next(Decoder* d, uint8_t* data, size_t size, size_t* consumed, Event* event) noexcept nogil:
    """The next event in ``data[consumed:size]``; EV_NEED_MORE when all of it has been consumed.

    The event points into ``data`` or the decoder, and is valid until the next call. After EV_CLOSE and EV_ERROR there
    are no events: further input is consumed and ignored.
    """
    cdef Header h
    cdef size_t left, missing
    cdef int found, kind
    if d.message_spent:
        _drop_message(d)
    if d.partial_spent:
        _drop_partial(d)
    while not d.ended:
        left = size - consumed[0]
        if d.partial is NULL:
            if left == 0:
                return _need_more(event)
            found = _read_header(d, data + consumed[0], left, &h)
            if found < 0:
                return _fail(d, event, <uint16_t>-found)
            if found == 0 or h.length > left - h.size:
                if not _keep(d, data + consumed[0], left):
                    return _fail(d, event, NO_MEMORY)
                consumed[0] = size
                return _need_more(event)
            consumed[0] += h.size + <size_t>h.length
            kind = _hand_up(d, &h, data + consumed[0] - <size_t>h.length, event)
            if kind != EV_NEED_MORE:
                return kind
            continue
        # Complete the frame that has begun: first its header, then its payload, and no byte of the next one.
        found = _read_header(d, d.partial, d.partial_size, &h)
        if found < 0:
            return _fail(d, event, <uint16_t>-found)
        missing = h.size + <size_t>h.length - d.partial_size if found else 1
        if missing:
            if left == 0:
                return _need_more(event)
            if missing > left:
                missing = left
            if not _keep(d, data + consumed[0], missing):
                return _fail(d, event, NO_MEMORY)
            consumed[0] += missing
            continue
        d.partial_spent = True
        kind = _hand_up(d, &h, d.partial + h.size, event)
        if kind != EV_NEED_MORE:
            return kind
        _drop_partial(d)
    consumed[0] = size
    return _need_more(event)


cdef int write_header(uint8_t* out, int opcode, uint64_t size) noexcept nogil:
    """The header of an unmasked, final frame; ``out`` has space for 10 bytes. Returns its size."""
    cdef int i
    out[0] = <uint8_t>(0x80 | opcode)
    if size < 126:
        out[1] = <uint8_t>size
        return 2
    if size < 65536:
        out[1] = 126
        out[2] = <uint8_t>(size >> 8)
        out[3] = <uint8_t>(size & 255)
        return 4
    out[1] = 127
    for i in range(8):
        out[2 + i] = <uint8_t>(size >> (8 * (7 - i)) & 255)
    return 10


cdef int write_masked_header(uint8_t* out, int opcode, uint64_t size, uint64_t* mask_state) noexcept nogil:
    """A client's header: ``out`` has space for 14 bytes; the last four bytes written are the key."""
    cdef int used = write_header(out, opcode, size)
    out[1] |= 128
    fill_mask(mask_state, out + used)
    return used + 4


@cython.final
cdef class FrameEvent:
    """A decoder's event: ``kind`` is an opcode (or ERROR), ``payload`` its bytes, ``code`` a close code or 0."""

    cdef readonly int kind
    cdef readonly bytes payload
    cdef readonly int code

    def __init__(self, int kind, bytes payload not None, int code):
        self.kind = kind
        self.payload = payload
        self.code = code

    def __eq__(self, other):
        if not isinstance(other, FrameEvent):
            return NotImplemented
        return (self.kind, self.payload, self.code) == (other.kind, other.payload, other.code)

    def __hash__(self):
        return hash((self.kind, self.payload, self.code))

    def __repr__(self):
        return f"FrameEvent({self.kind}, {self.payload!r}, {self.code})"


cdef int _public_kind(int kind) noexcept nogil:
    """The opcode that Python uses for a kind of event of the core."""
    if kind == EV_TEXT:
        return OP_TEXT
    if kind == EV_BINARY:
        return OP_BINARY
    if kind == EV_PING:
        return OP_PING
    if kind == EV_PONG:
        return OP_PONG
    return OP_CLOSE if kind == EV_CLOSE else -1


@cython.final
cdef class FrameDecoder:
    """The codec without a socket: give it bytes as they arrive, get complete messages."""

    cdef Decoder _decoder

    def __cinit__(self, max_message, *, bint client_side=False):
        if not 0 <= max_message <= LARGEST_LIMIT:
            raise ValueError(f"max_message must be 0 to {LARGEST_LIMIT} bytes, got {max_message}")
        decoder_init(&self._decoder, <uint32_t>max_message, client_side)

    def __dealloc__(self):
        decoder_free(&self._decoder)

    def receive(self, data):
        """The events that ``data`` completes. An ERROR or a CLOSE is the last one.

        A CLOSE has the peer's code (1005: none) and its reason as payload; an ERROR has the code to close with:
        1002 (not WebSocket), 1007 (not UTF-8), 1009 (over max_message), 1011 (no memory).
        """
        cdef bytearray copy = bytearray(memoryview(data))       # unmasking is in place
        cdef uint8_t* start = <uint8_t*><char*>copy
        cdef size_t consumed = 0
        cdef Event event
        cdef int kind
        cdef FrameEvent found
        cdef list events = []
        while True:
            kind = decoder_next(&self._decoder, start, <size_t>len(copy), &consumed, &event)
            if kind == EV_NEED_MORE:
                return events
            found = FrameEvent.__new__(FrameEvent)
            found.kind = _public_kind(kind)
            found.payload = PyBytes_FromStringAndSize(<const char*>event.data, <Py_ssize_t>event.size)
            found.code = event.code
            events.append(found)

    @property
    def buffered(self):
        """Bytes of memory held for incomplete input."""
        return <uint64_t>self._decoder.partial_room + self._decoder.message_room


def encode_frame(int opcode, bytes payload not None):
    """One unmasked, final frame.

    Raises: ValueError, for an opcode that is not in RFC 6455, and for a control frame over 125 bytes.
    """
    cdef uint8_t header[10]
    cdef Py_ssize_t length = len(payload)
    cdef bytes frame
    cdef char* out
    cdef int size
    if opcode < 0 or 2 < opcode < 8 or opcode > 10:
        raise ValueError(f"no such opcode: {opcode}")
    if opcode >= 8 and length > LONGEST_CONTROL:
        raise ValueError(f"a control frame carries at most {LONGEST_CONTROL} bytes, got {length}")
    size = write_header(header, opcode, <uint64_t>length)
    frame = PyBytes_FromStringAndSize(NULL, size + length)      # raises MemoryError itself
    out = PyBytes_AS_STRING(frame)
    memcpy(out, header, size)
    memcpy(out + size, PyBytes_AS_STRING(payload), <size_t>length)
    return frame


cdef bytes close_body(int code, str reason):
    """The payload of a close frame. Raises: ValueError, for a code that may not be sent (1005 and 1006 among them)."""
    if not 0 <= code <= 0xFFFF or not _is_close_code(<uint16_t>code):
        raise ValueError(f"{code} is no close code to send")
    return code.to_bytes(2, "big") + reason.encode()[:LONGEST_CONTROL - 2].decode(errors="ignore").encode()


def encode_close(int code, str reason not None=""):
    """A close frame; the reason is truncated to fit a control frame, between characters.

    Raises: ValueError, for a code that may not be sent.
    """
    return encode_frame(OP_CLOSE, close_body(code, reason))
