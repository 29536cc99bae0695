"""The properties that a frame's bytes depend on, besides the entry: readers with equal ones share a stream."""

from __future__ import annotations

from dataclasses import dataclass

from ext.wire.encoder import EntryEncoder


@dataclass(frozen=True, slots=True)
class Variant:
    """The key of a stream. Further options that change a reader's frames, such as a filter or deltas, would become
    fields."""

    format: int  # JSON or MSGPACK
    name: str  # the channel's, as the client wrote it, including its params

    def encoder(self) -> EntryEncoder:
        """The encoder of its frames."""
        return EntryEncoder(self.format, self.name)
