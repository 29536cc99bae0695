"""The properties that a frame's bytes depend on, besides the entry: readers with equal ones share a stream."""

from __future__ import annotations

from typing import NamedTuple

from ext.wire.encoder import EntryEncoder


class Variant(NamedTuple):
    """The key of a stream. Further options that change a reader's frames, such as a filter or deltas, would become
    fields. A tuple, because every attach makes some and looks them up."""

    format: int  # JSON or MSGPACK
    name: str  # the channel's, as the client wrote it, including its params

    def encoder(self) -> EntryEncoder:
        """The encoder of its frames."""
        return EntryEncoder(self.format, self.name)
