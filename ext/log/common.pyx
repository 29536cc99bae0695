# cython: language_level=3
"""What all partitions of a process have in common: the time of this turn of work, and the bounds, which are the process's.

    now          ms by the wall clock, which serials follow         steady          ms by the one that nobody can set
    pending      bytes that are staged, or wait to be               remembered      message ids in all windows
    congested    pending > max_staged: publishers are slowed down   overfull        pending > max_pending: ... are refused

Of what several apps share, none may have so much that the others find nothing."""
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t

from ext.log.counters cimport Meter

cdef enum:
    SHARES = 7                  # of an app to what nobody has taken: alone it may have 7/8, two have 7/15 each, and so on


cdef inline uint64_t share(uint64_t most, uint64_t taken) noexcept nogil:
    """What one app may have of ``most``, once so much is taken: the more there is free then, the more."""
    return SHARES * (most - taken) if most > taken else 0


def share_of(uint64_t most, uint64_t taken):
    """What one app may have of a bound that several share, once so much is taken: one, or so much that a newcomer finds
    some."""
    return max(1, share(most, taken))


cdef class Common:
    """See above. ``meter``: what an app has of what is remembered; None: nobody counts."""

    def __init__(self, uint64_t max_remembered):
        self.max_remembered = max_remembered
        self.max_staged = UINT64_MAX
        self.max_pending = UINT64_MAX

    @property
    def congested(self):
        """So much is pending that publishers are to be slowed down."""
        return self.is_congested()

    @property
    def overfull(self):
        """So much is pending that nothing more may be: publishers have not been slowed down, or not enough."""
        return self.pending_bytes > self.max_pending

    def admits(self, Meter meter, uint32_t count):
        """May so many message ids more be remembered? Not if all may hold no more, or the app."""
        return self.may_remember(meter, count)

    def recall(self, Meter meter, uint64_t count):
        """So many are remembered again: they have been read back."""
        self.remember(meter, count)

    def forget(self, Meter meter, uint64_t count):
        """So many are not remembered any more."""
        self.remembered -= count
        if meter is not None:
            meter.remembered -= count

    cdef int remember(self, Meter meter, uint64_t count) except -1:
        self.remembered += count
        if meter is not None:
            meter.remembered += count
        return 0

    cdef bint may_remember(self, Meter meter, uint32_t count) noexcept:
        cdef uint64_t own
        if self.remembered + count > self.max_remembered:
            return False
        if meter is None:
            return True
        own = meter.remembered + count
        if meter.max_remembered:
            return own <= meter.max_remembered
        return not self.shared or own <= 1 or own <= share(self.max_remembered, self.remembered + count)
