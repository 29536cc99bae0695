from libc.stdint cimport int64_t, uint64_t

cdef enum:
    MESSAGE_BYTES = 64      # the least that a message counts for: its id, index and answer are as large


cdef inline uint64_t charged(uint64_t count, uint64_t size) noexcept nogil:
    """The bytes that ``count`` messages of ``size`` bytes count for: an empty one counts too."""
    return size if size > count * MESSAGE_BYTES else count * MESSAGE_BYTES


cdef class Rate:
    cdef readonly uint64_t messages, data   # per second; 0: unlimited
    cdef double _messages_used, _data_used  # of this second's allowance; may exceed it
    cdef int64_t _at_ms
    cdef bint _limited

    cdef void _refill(self, int64_t now_ms) noexcept

    cdef inline bint has_room(self, int64_t now_ms) noexcept:
        """May one more publish pass?"""
        if not self._limited:
            return True
        self._refill(now_ms)
        return not ((self.messages and self._messages_used >= <double>self.messages)
                    or (self.data and self._data_used >= <double>self.data))

    cdef inline void use(self, int64_t now_ms, uint64_t count, uint64_t size) noexcept:
        if self._limited:
            self._refill(now_ms)
            self._messages_used += <double>count
            self._data_used += <double>size
