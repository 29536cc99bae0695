"""Errors, by whose move is next.

    PubSubError             its ``code`` is what the client sees, and never changes meaning
        JournalUnavailable  the operator's: nothing was acknowledged; the same publish may be sent again
        JournalCorrupted    the operator's: entries of one channel cannot be read; other channels can
"""

from __future__ import annotations


class PubSubError(Exception):
    """Whatever a client may be told about."""

    code = 50000
    status = 500


class JournalUnavailable(PubSubError):
    """The journal cannot be read or written now; ``reason`` says why and what the operator can do."""

    code = 50003
    status = 503

    def __init__(self, reason: str) -> None:
        super().__init__(f"the journal is unavailable: {reason}")
        self.reason = reason


class JournalCorrupted(PubSubError):
    """What is on disk for ``channel`` is not what was written there."""

    code = 50001
    status = 500

    def __init__(self, channel: str, detail: str) -> None:
        super().__init__(f"{channel}: stored entries are damaged: {detail}")
        self.channel = channel
        self.detail = detail
