"""Errors, by the party that has to act.

PubSubError                 its ``code`` is what the client sees, and never changes meaning
    BadRequest              the sender: the request is wrong, and will be wrong again
    AuthError               the sender: other credentials are needed
    LimitExceeded           the sender: send less, or later
    PublishRejected         the publisher: nothing was stored
    Discontinuity           the subscriber: entries are gone, reading may continue from ``evicted``
    JournalUnavailable      the operator: nothing was acknowledged; the same publish may be sent again
    OutcomeUnknown          the publisher: it may be stored or not; the same publish, with the same id, tells
    JournalCorrupted        the operator: entries of one channel cannot be read; other channels can
    StartupFailed           the operator: the server cannot run this way; the message says what to do
"""

from __future__ import annotations

from typing import Any


class PubSubError(Exception):
    """Any error that may be reported to a client.

    ``status`` is the HTTP-like statusCode; by default the first three digits of a five-digit code.
    """

    code = 50000
    status = 500

    def __init__(self, message: str, *, code: int | None = None, status: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
            self.status = code // 100 if 40000 <= code < 60000 else 400
        if status is not None:
            self.status = status

    def info(self) -> dict[str, Any]:
        """The ErrorInfo of the protocol, without ``href``: these errors are ours, but such pages belong to others."""
        return {"code": self.code, "statusCode": self.status, "message": str(self)}


class BadRequest(PubSubError):
    code = 40000
    status = 400


class AuthError(PubSubError):
    code = 40100
    status = 401

    def __init__(self, message: str, *, code: int | None = None, status: int | None = None) -> None:
        super().__init__(message, code=code, status=status if status is not None else 401)


class LimitExceeded(PubSubError):
    """``retry_after_ms``: when a retry may succeed, if known."""

    code = 42910
    status = 429

    def __init__(
        self, message: str, *, code: int | None = None, status: int | None = None, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message, code=code, status=status)
        self.retry_after_ms = retry_after_ms


class PublishRejected(PubSubError):
    code = 40000
    status = 400


class Discontinuity(PubSubError):
    code = 90003
    status = 404

    def __init__(self, channel: str, cursor: int, evicted: int) -> None:
        super().__init__(f"{channel}: entries between {cursor} and {evicted} are no longer held")
        self.evicted = evicted


class JournalUnavailable(PubSubError):
    """The journal cannot be read or written now; ``reason`` says why, and what the operator can do."""

    code = 50003
    status = 503

    def __init__(self, reason: str, *, unwritten: bool = False) -> None:
        """``unwritten``: it is certain that nothing of the request has been written."""
        super().__init__(f"the journal is unavailable: {reason}")
        self.reason = reason
        self.unwritten = unwritten


class NotStorable(PubSubError):
    """A block that no journal can hold: a bug in the server, which costs its channel one batch."""

    code = 50000
    status = 500


class OutcomeUnknown(PubSubError):
    """Whether a publish is stored stays unknown until the journal can be read again: neither ACK nor NACK is true.

    ``message_id``: that of the first message, if known; resending with it stores nothing twice.
    """

    code = 50003
    status = 504

    def __init__(self, reason: str, message_id: str | None = None) -> None:
        again = "the same id" if message_id is None else f"the same ids; that of the first message is {message_id!r}"
        super().__init__(f"it is unknown whether this is stored: {reason}; to be sure, send it again with {again}")
        self.reason = reason
        self.message_id = message_id

    def about(self, message_id: str) -> OutcomeUnknown:
        """The same error, for a publish whose first message has this id."""
        return OutcomeUnknown(self.reason, message_id)


class JournalCorrupted(PubSubError):
    """The stored data of ``channel`` differs from the data written."""

    code = 50001
    status = 500

    def __init__(self, channel: str, detail: str) -> None:
        super().__init__(f"{channel}: stored entries are damaged: {detail}")
        self.channel = channel
        self.detail = detail


class StartupFailed(PubSubError):
    """The server cannot start with these settings, this data directory, on this machine."""
