"""The transport as the client's state machine sees it: a socket of the plane, plain or TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ext.net.ingest import Ingest
from ext.net.shaper import Shaper

if TYPE_CHECKING:
    from ext.log.stream import Stream


class StreamReader(Protocol):
    """A reader of a stream: the plane's subscription."""

    @property
    def active(self) -> bool: ...
    @property
    def cursor(self) -> int: ...
    def stop(self) -> None: ...


class Transport(Protocol):
    """The connection's bytes, plain or TLS."""

    @property
    def queued(self) -> int:
        """Bytes waiting in its own queue."""

    @property
    def silence_ms(self) -> int:
        """Time since the peer was last heard; 0 while reading is paused."""

    @property
    def shaper(self) -> Shaper | None:
        """Decides when deliveries may be sent, and is charged for them; None: no limit."""

    def shape(self, shaper: Shaper | None) -> None: ...
    def send(self, payload: bytes) -> None: ...
    def send_frames(self, frames: bytes) -> None: ...
    def notify_drained(self) -> None: ...
    def deliver_to(self, sink: Ingest | None) -> None:
        """Route plain publishes to the sink; the owner gets those that it does not take."""

    def subscribe(self, stream: Stream, place: int, *, skip_origin: int = 0, quiet_until: int = 0) -> StreamReader: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self, code: int, reason: str = "") -> None: ...
