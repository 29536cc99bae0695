"""What the bytes of a frame depend on, besides the entry: readers of a channel who have it in common share a stream."""

from __future__ import annotations

from dataclasses import dataclass

from ext.wire.encoder import EntryEncoder


@dataclass(frozen=True, slots=True)
class Variant:
    """The key of a stream. What else changes what a reader gets, as a filter or deltas would, becomes a field."""

    format: int  # JSON or MSGPACK
    name: str  # the channel's, as the client wrote it: its params are in there

    def encoder(self) -> EntryEncoder:
        """What makes its frames."""
        return EntryEncoder(self.format, self.name)
