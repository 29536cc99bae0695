# cython: language_level=3
"""A sink takes complete messages straight from the plane's receive buffer, before they become events.

    recv -> frame decoder -> sink.take(bytes) -> True: processed         False: an event, for Python

A message goes to the sink only if no earlier one of the same poll became an event. So each connection's messages are
processed in the order of arrival, by the sink or by Python."""


cdef class Sink:
    """Takes nothing. Modules with a fast path for the usual message derive from it."""

    cdef bint take(self, const uint8_t* data, size_t size, bint binary) except -1:
        """Process a message, whose bytes are valid only during the call. Returns False if it is left to Python."""
        return False
