"""The journal as a good engineer would first write it: one row per entry, msgpack values, one synced write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgpack
from rocksdict import Options, Rdict, WriteBatch, WriteOptions

from engine.journal.port import Block, Stored


class RowJournal:
    def __init__(self, path: Path) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        self._db = Rdict(str(path), options)
        self._sync = WriteOptions()
        self._sync.sync = True

    def append(self, blocks: Sequence[Block], *, synced: bool) -> None:
        batch = WriteBatch(raw_mode=True)
        for block in blocks:
            prefix = block.channel.encode() + b"\0"
            for serial, previous, record in block.entries:
                batch.put(prefix + serial.to_bytes(8, "big"), msgpack.packb([previous, block.series, record]))
        self._db.write(batch, self._sync if synced else None)

    def read_after(self, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        prefix, found = channel.encode() + b"\0", []
        for key, value in self._db.items(from_key=prefix + (cursor + 1).to_bytes(8, "big")):
            if not key.startswith(prefix) or len(found) == limit or (budget <= 0 and found):
                break
            previous, series, record = msgpack.unpackb(value)
            found.append(Stored(int.from_bytes(key[-8:], "big"), previous, series, record))
            budget -= len(record)
        return found

    def close(self) -> None:
        self._db.close()
