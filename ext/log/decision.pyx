# cython: language_level=3
"""The outcome of checking a publish. ``ext.log.terms`` checks its publisher's limits, ``ext.log.sequence`` whether it
is new.

Every path uses both. A fast path stages what is NEW and leaves the rest to the slow path, which checks again and turns
the decision into an error, or finds the first publish that a repeat belongs to."""
from enum import IntEnum

from ext.log cimport decision


class Decision(IntEnum):
    """NEW: it may be staged."""

    NEW = decision.NEW
    TOO_MANY = decision.TOO_MANY                    # messages in one publish
    TOO_LARGE = decision.TOO_LARGE                  # bytes in one publish
    CONNECTION_RATE = decision.CONNECTION_RATE      # this rate is used up
    CHANNEL_RATE = decision.CHANNEL_RATE
    KEY_RATE = decision.KEY_RATE
    APP_RATE = decision.APP_RATE
    OVERFULL = decision.OVERFULL                    # too much is on its way to the journal
    FULL = decision.FULL                            # no more message ids may be remembered
    EARLIER_IDS = decision.EARLIER_IDS              # the ids of earlier lives must be known first
    SEEN = decision.SEEN                            # one of its ids has been used
    REFUSING = decision.REFUSING                    # nothing can be kept at present
