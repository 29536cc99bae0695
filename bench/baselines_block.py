"""A block as plain Python writes and reads it: whole columns at once by ``struct``, sums by zlib."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, repeat
from struct import Struct, pack, unpack_from
from zlib import crc32

from engine.errors import JournalCorrupted
from engine.journal.port import Stored

VERSION = 1
HEAD = Struct(">BI8sI")
SUM_FROM = 5  # the checksum covers what follows it, and the version byte through its seed
ENTRY_BYTES = 20  # of columns, per entry
SERIAL_BYTES = 8

# A reader decodes whole blocks, to check them: these bound what a page of one entry costs. One
# entry always fits, however big (a publish is bounded elsewhere).
MAX_ENTRIES = 512
MAX_BYTES = 256 * 1024

_stored = partial(tuple.__new__, Stored)


def key_channel(key: bytes) -> str:
    """The channel of a key, for messages also when its bytes are damaged."""
    return key[: -SERIAL_BYTES - 1].decode("utf-8", "backslashreplace")


def encode(key: bytes, series: str, entries: Sequence[tuple[int, int, bytes]]) -> bytes:
    """The value of a block. The entries ascend; the first one's serial is the one in the key."""
    count = len(entries)
    serials, previous, records = zip(*entries, strict=True)
    columns = pack(f">{2 * count}Q{count}I", *serials, *previous, *map(len, records))
    name = series.encode("ascii")
    if len(name) != 8:
        raise ValueError(f"a series has 8 characters, got {series!r}")
    body = b"".join((name, count.to_bytes(4, "big"), columns, *records))
    return b"".join((bytes((VERSION,)), _checksum(key, VERSION, body).to_bytes(4, "big"), body))


def decode(key: bytes, value: bytes) -> list[Stored]:
    """The entries of a block, ascending.

    Raises: JournalCorrupted, if any bit of key or value is not what was written.
    """
    if len(value) < HEAD.size:
        raise JournalCorrupted(key_channel(key), f"a block of {len(value)} bytes, shorter than its head")
    version, checksum, name, count = HEAD.unpack_from(value)
    if _checksum(key, version, memoryview(value)[SUM_FROM:]) != checksum:
        raise JournalCorrupted(key_channel(key), f"checksum mismatch in the block at {key[-SERIAL_BYTES:].hex()}")
    if version != VERSION:
        raise JournalCorrupted(key_channel(key), f"block version {version}; this server reads {VERSION}")
    start = HEAD.size + ENTRY_BYTES * count
    if count == 0 or start > len(value):
        raise JournalCorrupted(key_channel(key), f"{count} entries announced in {len(value)} bytes")
    columns = unpack_from(f">{2 * count}Q{count}I", value, HEAD.size)
    ends = list(accumulate(columns[2 * count :], initial=start))
    if ends[-1] != len(value):
        raise JournalCorrupted(key_channel(key), f"records end at {ends[-1]} of {len(value)} bytes")
    records = map(value.__getitem__, map(slice, ends, ends[1:]))
    return list(map(_stored, zip(columns[:count], columns[count : 2 * count], repeat(name.decode("ascii")), records)))


def split(entries: Sequence[tuple[int, int, bytes]]) -> Iterator[Sequence[tuple[int, int, bytes]]]:
    """Cut entries into blocks of bounded size."""
    start = size = 0
    for at, (_, _, record) in enumerate(entries):
        size += len(record)
        if at > start and (at - start == MAX_ENTRIES or size > MAX_BYTES):
            yield entries[start:at]
            start, size = at, len(record)
    yield entries[start:] if start else entries


def _checksum(key: bytes, version: int, body: bytes | memoryview) -> int:
    return crc32(body, crc32(key, version))
