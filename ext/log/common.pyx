# cython: language_level=3
"""What all partitions of a process share: the time of the current turn, and the bounds of the process.

    now          ms by the wall clock, which serials follow         steady          ms of a clock that nobody can set
    pending      bytes that are staged, or wait to be               remembered      message ids in all windows
    congested    pending > max_staged: publishers are slowed down   overfull        pending > max_pending: and refused

Of what several apps share, no app may take so much that the others get nothing."""
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t

from ext.log.counters cimport Meter

cdef enum:
    SHARES = 7                  # ratio of an app's share to what is free: one app may have 7/8, two 7/15 each, etc.


cdef inline uint64_t share(uint64_t most, uint64_t taken) noexcept nogil:
    """What one app may have of ``most`` when ``taken`` is in use: more, the more is free."""
    return SHARES * (most - taken) if most > taken else 0


def share_of(uint64_t most, uint64_t taken):
    """What one app may have of a shared bound when ``taken`` is in use: at least one, and so little that a newcomer
    gets some."""
    return max(1, share(most, taken))


cdef class Common:
    """See above. ``meter``: what an app has of what is remembered; None: not counted."""

    def __init__(self, uint64_t max_remembered):
        self.max_remembered = max_remembered
        self.max_staged = UINT64_MAX
        self.max_pending = UINT64_MAX

    @property
    def congested(self):
        """Is so much pending that publishers are to be slowed down?"""
        return self.is_congested()

    @property
    def overfull(self):
        """Is so much pending that publishes are refused? Slowing down the publishers was not enough."""
        return self.pending_bytes > self.max_pending

    def recall(self, Meter meter, uint64_t count):
        """``count`` ids are remembered again: they were read back."""
        self.remember(meter, count)

    def forget(self, Meter meter, uint64_t count):
        """``count`` ids are no longer remembered."""
        self.remembered -= count
        if meter is not None:
            meter.remembered -= count

    cdef int remember(self, Meter meter, uint64_t count) except -1:
        self.remembered += count
        if meter is not None:
            meter.remembered += count
        return 0

    cdef bint may_remember(self, Meter meter, uint32_t count) noexcept:
        """May ``count`` more message ids be remembered? Not if the process, or the app, has reached its bound."""
        cdef uint64_t own
        if self.remembered + count > self.max_remembered:
            return False
        if meter is None:
            return True
        own = meter.remembered + count
        if meter.max_remembered:
            return own <= meter.max_remembered
        return not self.shared or own <= 1 or own <= share(self.max_remembered, self.remembered + count)
