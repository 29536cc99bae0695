"""A write-ahead log as RocksDB writes it: batches, cut to records that fit into blocks of 32 KiB."""

from __future__ import annotations

import struct

from engine.journal.wal import BLOCK, FIRST, FULL, LAST, MIDDLE, record_checksum

HEAD = 7


def record(kind: int, payload: bytes) -> bytes:
    checksum = record_checksum(bytes((kind,)) + payload)
    return struct.pack("<IHB", checksum, len(payload), kind) + payload


def batch(sequence: int, content: bytes, count: int = 1) -> bytes:
    return struct.pack("<QI", sequence, count) + content


def log(batches: list[bytes]) -> tuple[bytes, list[int]]:
    """The bytes, and where each batch ends."""
    data, ends = bytearray(), []
    for whole in batches:
        rest, begun = whole, False
        while rest or not begun:
            room = BLOCK - len(data) % BLOCK
            if room < HEAD:
                data += bytes(room)
                room = BLOCK
            part, rest = rest[: room - HEAD], rest[room - HEAD :]
            kind = (MIDDLE if rest else LAST) if begun else (FIRST if rest else FULL)
            data += record(kind, part)
            begun = True
        ends.append(len(data))
    return bytes(data), ends
