"""Look over the write-ahead logs before RocksDB replays them: torn, or damaged?

    log      blocks of 32 KiB; a record never straddles one
    record   crc32c 4 | length 2 | type 1 | payload     little-endian; type 1..4: whole, first, middle, last

A crash tears the end off the newest log, and that must be accepted: nobody was told that it was
stored. Tried on every byte of a small log (RocksDB 9.8): replay in the mode that tolerates a torn
tail reports a wrong checksum, but takes a length whose flipped bit points past the end of the file
for a torn tail, silently dropping all that follows; and a type flipped to one of a recycled log
(5..8) makes it spin for ever. Both are found here by walking the heads alone, some 0.4 us each. A
record that reaches past the end is a tear if nothing that follows it is a record, by its checksum."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from struct import Struct

BLOCK = 32 * 1024
HEAD = Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
KNOWN_TYPES = frozenset((FULL, FIRST, MIDDLE, LAST))
CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
MASK_DELTA = 0xA282EAD8  # RocksDB stores its checksums rotated by 15 and shifted by this


def inspect(directory: Path) -> str | None:
    """What is wrong with the logs of a closed database, naming the file; None if nothing is.

    A torn record is accepted in the newest log that has any record: where one is followed by a log
    with records it would be a hole. (A full disk tears a log, then RocksDB begins another, which
    stays empty because the journal writes nothing after a failure.)
    """
    newest = True
    for log in sorted(directory.glob("*.log"), reverse=True):
        data = log.read_bytes()
        problem = inspect_log(data, newest=newest)
        if problem is not None:
            return f"{log.name}: {problem}"
        newest = newest and not any(data)
    return None


def inspect_log(data: bytes, *, newest: bool) -> str | None:
    """What is wrong with the bytes of one log."""
    unpack_head: Callable[[bytes, int], tuple[int, int, int]] = HEAD.unpack_from
    at, end = 0, len(data)
    while at < end:
        room = min(BLOCK - at % BLOCK, end - at)
        if room < HEAD.size:
            if at + room < end or room == BLOCK - at % BLOCK:
                at += room  # the padding of a block too full for another head
                continue
            return _judge_tail(data, at, newest)
        _, length, kind = unpack_head(data, at)
        if kind not in KNOWN_TYPES:
            if kind == 0 and length == 0 and not any(data[at:]):
                return None  # zeros to the end: allocated, never written
            return f"a record of unknown type {kind} at byte {at}"
        if length > room - HEAD.size:
            if at + room < end:
                return f"a record at byte {at} does not fit into its block"
            return _judge_tail(data, at, newest)
        at += HEAD.size + length
    return None


def _judge_tail(data: bytes, at: int, newest: bool) -> str | None:
    if not newest:
        return f"torn at byte {at}, and newer logs follow"
    if _record_follows(data, at + 1):
        return f"the length of the record at byte {at} is damaged: intact records follow it"
    return None


def _record_follows(data: bytes, start: int) -> bool:
    """Does an intact record begin anywhere in the rest of the file? At most one block is looked at."""
    end = len(data)
    for at in range(start, end - HEAD.size + 1):
        checksum, length, kind = HEAD.unpack_from(data, at)
        fits = length <= end - at - HEAD.size
        if kind in KNOWN_TYPES and fits and length and record_checksum(data[at + 6 : at + 7 + length]) == checksum:
            return True
    return False


def record_checksum(typed_payload: bytes) -> int:
    """The masked crc32c over type byte and payload, as a record's head carries it."""
    crc = 0xFFFFFFFF
    for byte in typed_payload:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


def _table_entry(index: int) -> int:
    for _ in range(8):
        index = (index >> 1) ^ (CRC32C_POLYNOMIAL if index & 1 else 0)
    return index


_TABLE = [_table_entry(index) for index in range(256)]
