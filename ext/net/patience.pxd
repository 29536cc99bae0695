"""Time limits of a connection that publishes over HTTP. Each starts with the activity that it limits.

    to begin a request              idle_ms         else it is closed
    to send the rest of one         request_ms      else it is refused, or leaves
    to take its answer              response_ms     else it is closed
    to go after a refusal           LINGER_MS       else it is closed

There is no limit while it waits for an answer."""
from libc.stdint cimport int64_t

from ext.net.caller cimport ENDING, READING, SENDING, Caller

cdef enum:
    LINGER_MS = 2_000           # closing at once could discard the answer

cdef enum Lateness:
    IN_TIME = 0
    OVER = 1                    # to be closed
    LATE = 2                    # with its request


cdef struct Patience:
    int64_t idle_ms, request_ms, response_ms


cdef inline Lateness lateness(const Patience* patience, Caller caller, int64_t now_ms) noexcept:
    cdef int64_t waited = now_ms - caller.since_ms
    if caller.state == READING and not caller.is_empty():
        return LATE if waited >= patience.request_ms else IN_TIME
    if caller.state == READING:
        return OVER if waited >= patience.idle_ms else IN_TIME
    if caller.state == SENDING:
        return OVER if waited >= patience.response_ms else IN_TIME
    if caller.state == ENDING:
        return OVER if waited >= LINGER_MS else IN_TIME
    return IN_TIME
