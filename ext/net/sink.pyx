# cython: language_level=3
"""Where the plane hands complete messages, straight from its receive buffer, before it makes events of them.

    recv -> frame decoder -> sink.take(bytes) -> True: it is done with         False: an event, for Python

A message goes to the sink only if none before it in the same poll went past it: so each connection's messages are worked
on in the order in which they came, whoever does it."""


cdef class Sink:
    """Takes nothing. Rooms that have a faster way for the usual message derive from it."""

    cdef bint take(self, const uint8_t* data, size_t size, bint binary) except -1:
        """Deal with a message, whose bytes are lent for the time of the call; or leave it, and let False say so."""
        return False
