from libc.stdint cimport int64_t, uint32_t, uint64_t

from ext.log.decision cimport (APP_RATE, CHANNEL_RATE, CONNECTION_RATE, KEY_RATE, NEW, TOO_LARGE, TOO_MANY)
from ext.log.rate cimport Rate, charged


cdef class Terms:
    cdef readonly Rate connection       # None: it has no rate of its own
    cdef readonly Rate key, app
    cdef readonly uint64_t max_bytes    # of one publish
    cdef readonly uint32_t max_messages

    cdef inline int fits(self, uint32_t count, uint64_t size) noexcept:
        """Check the publish alone: TOO_MANY, TOO_LARGE, or NEW."""
        if count > self.max_messages:
            return TOO_MANY
        return TOO_LARGE if size > self.max_bytes else NEW

    cdef inline int room(self, Rate channel, uint64_t max_bytes, uint64_t size, int64_t now_ms) noexcept:
        """Do a channel of this rate (None: any) and bound, and all other rates, allow it? A rate, TOO_LARGE, or NEW."""
        if size > max_bytes:
            return TOO_LARGE
        if self.connection is not None and not self.connection.has_room(now_ms):
            return CONNECTION_RATE
        if channel is not None and not channel.has_room(now_ms):
            return CHANNEL_RATE
        if not self.key.has_room(now_ms):
            return KEY_RATE
        return NEW if self.app.has_room(now_ms) else APP_RATE

    cdef inline void charge(self, Rate channel, uint32_t count, uint64_t size, int64_t now_ms) noexcept:
        """Charge for a publish that has passed."""
        size = charged(count, size)
        if self.connection is not None:
            self.connection.use(now_ms, count, size)
        if channel is not None:
            channel.use(now_ms, count, size)
        self.key.use(now_ms, count, size)
        self.app.use(now_ms, count, size)
