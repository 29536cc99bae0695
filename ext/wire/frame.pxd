from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:                      # opcodes (RFC 6455, section 5.2)
    OP_CONTINUATION = 0
    OP_TEXT = 1
    OP_BINARY = 2
    OP_CLOSE = 8
    OP_PING = 9
    OP_PONG = 10

    LONGEST_HEADER = 14         # of a masked frame


cdef enum:
    EV_NEED_MORE = 0
    EV_TEXT = 1
    EV_BINARY = 2
    EV_PING = 3
    EV_PONG = 4
    EV_CLOSE = 5
    EV_ERROR = 6


cdef struct Decoder:            # 48 bytes, embedded in every connection
    uint8_t* partial            # an incomplete frame, header included; NULL: none
    uint8_t* message            # joined fragments, unmasked; NULL: none
    uint32_t partial_size, partial_room
    uint32_t message_size, message_room
    uint32_t max_message
    uint32_t partial_spent      # the last event points into ``partial``: free it in the next call
    uint8_t opcode              # of the fragmented message; 0: none
    uint8_t client_side
    uint8_t ended               # by a close frame or an error: nothing more is read
    uint8_t message_spent       # the last event points into ``message``


cdef struct Event:
    int kind
    const uint8_t* data         # ``size`` bytes in the input or the decoder, until the next call to it;
    size_t size                 # never NULL for an event with a payload, even an empty one
    uint16_t code               # of EV_CLOSE: the peer's code (1005: none); of EV_ERROR: 1002, 1007, 1009 or 1011


cdef void decoder_init(Decoder* d, uint32_t max_message, bint client_side) noexcept nogil
cdef void decoder_free(Decoder* d) noexcept nogil
cdef int decoder_next(Decoder* d, uint8_t* data, size_t size, size_t* consumed, Event* event) noexcept nogil
cdef int write_header(uint8_t* out, int opcode, uint64_t size) noexcept nogil
cdef int write_masked_header(uint8_t* out, int opcode, uint64_t size, uint64_t* mask_state) noexcept nogil
cdef bytes close_body(int code, str reason)
