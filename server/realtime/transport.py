"""The transport of a client's bytes, as its state machine sees it: a socket of the plane, plain or TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ext.net.ingest import Ingest
from ext.net.shaper import Shaper

if TYPE_CHECKING:
    from ext.log.stream import Stream


class StreamReader(Protocol):
    """What reads a stream for us: the plane's subscription."""

    @property
    def active(self) -> bool: ...
    @property
    def cursor(self) -> int: ...
    def stop(self) -> None: ...


class Transport(Protocol):
    """The connection's bytes, plain or TLS."""

    @property
    def queued(self) -> int:
        """Bytes that wait in its own queue."""

    @property
    def silence_ms(self) -> int:
        """For so long nothing has been heard of the peer; 0 while we do not listen."""

    @property
    def shaper(self) -> Shaper | None:
        """When deliveries may be sent, and what is told of them; None: at any time."""

    def shape(self, shaper: Shaper | None) -> None: ...
    def send(self, payload: bytes) -> None: ...
    def send_frames(self, frames: bytes) -> None: ...
    def notify_drained(self) -> None: ...
    def deliver_to(self, sink: Ingest | None) -> None:
        """Plain publishes are for the sink; what it does not take is for the owner."""

    def subscribe(self, stream: Stream, place: int, *, skip_origin: int = 0, quiet_until: int = 0) -> StreamReader: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self, code: int, reason: str = "") -> None: ...
