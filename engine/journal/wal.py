"""Examines the write-ahead logs before RocksDB replays them, and distinguishes tears from damage.

    log      blocks of 32 KiB; a record never straddles one
    record   crc32c 4 | length 2 | type 1 | payload     little-endian; type 1..4: whole, first, middle, last
    payload  of the first or only record of a batch: sequence 8 | count 4 | ...; the next batch has sequence + count

A crash or a full disk tears the end off the newest log, and may leave bytes behind it that were never written. That
must be accepted, because they were never acknowledged. RocksDB (9.8, tried on every byte of a small log) does
not distinguish a tear from damage. It takes a length whose flipped bit points past the end of the file for a tear and
silently drops all later records; a type flipped to one of a recycled log (5..8) makes it loop for ever; and it reports
a tear with zeros behind it as damage. So this module walks the heads, at about 0.5 us each. A record begins only where
the one before it ended, or with a block. Payloads are never searched for records, because users may publish anything,
including logs of RocksDB. Where the walk stops:

    spot        the wrong record: the last one of the walk, if its checksum is wrong; else where the walk stopped
    damage      the spot's record is whole except for its head, or its bytes; or a record that continues the sequence
                begins behind it
    tear        everything else. The log is cut off there, if RocksDB would fail on the rest"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct

BLOCK = 32 * 1024
HEAD = Struct("<IHB")
BATCH = Struct("<QI")
BEGINNING = Struct("<IHBQI")  # of a record that begins a batch
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
KNOWN_TYPES = frozenset((FULL, FIRST, MIDDLE, LAST))
# No record ends with this many zeros: the last bytes are the head's serial, which contains its milliseconds.
UNWRITTEN_ZEROS = 32
CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
MASK_DELTA = 0xA282EAD8  # RocksDB stores its checksums rotated by 15 and shifted by this
ALL_BITS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Finding:
    """The result for one log."""

    problem: str | None = None
    end: int | None = None  # cut off the log from here on
    first: int | None = None  # sequence of its first batch; None if it has none
    following: int | None = None  # the sequence of the next batch
    torn: int | None = None  # the position of a tear, if any


def inspect(directory: Path) -> str | None:
    """The fault of the logs of a closed database, naming the file; None if there is none."""
    return next((f"{log.name}: {found.problem}" for log, found in findings(directory) if found.problem), None)


def findings(directory: Path) -> list[tuple[Path, Finding]]:
    """The findings about all logs, oldest first.

    A torn record is accepted in the newest log that has any record: a tear followed by a log with records would be a
    hole. (A full disk tears a log, then RocksDB begins another, which stays empty because the journal writes nothing
    after a failure.)
    """
    found: list[tuple[Path, Finding]] = []
    for log in sorted(directory.glob("*.log"), key=number_of):
        data = log.read_bytes()
        if any(data):
            found = [(other, _not_newest(about)) for other, about in found]
        found.append((log, examine(data)))
    return found


def cut_tears(found: list[tuple[Path, Finding]]) -> None:
    """Cut off a tear, if RocksDB would take it for damage. Raises: OSError."""
    for log, about in found:
        if about.end is not None:
            with log.open("r+b") as file:
                file.truncate(about.end)
                os.fsync(file.fileno())


def inspect_log(data: bytes, *, newest: bool) -> str | None:
    """The fault of the bytes of one log."""
    about = examine(data)
    return (about if newest else _not_newest(about)).problem


def number_of(log: Path) -> int:
    """The number in <digits>.log; logs are in the order of their numbers, which may get more digits."""
    return int(log.stem) if log.stem.isdecimal() else 0


def _not_newest(about: Finding) -> Finding:
    if about.problem is None and about.torn is not None:
        return replace(about, problem=f"torn at byte {about.torn}, and newer logs follow")
    return about


@dataclass(slots=True)
class _Batch:
    """The batch under way in a walk: its first bytes, 12 of which matter; open from first record to last."""

    head: bytes = b""
    open: bool = False

    @property
    def following(self) -> int | None:
        if len(self.head) < BATCH.size:
            return None
        sequence, count = BATCH.unpack_from(self.head)
        return int(sequence + count)


@dataclass(frozen=True, slots=True)
class _Walk:
    """A walk from record to record, as far as they follow each other."""

    at: int  # where it stopped
    last: int  # start of its last record; -1: none
    first: int | None  # sequence of the first batch
    expected: int | None  # sequence of the next batch
    batch: _Batch
    before: tuple[int | None, _Batch]  # the same two, at the start of the last record


def examine(data: bytes) -> Finding:
    """All findings about a log, as if it were the newest."""
    end, walk = len(data), _walk(data)
    if walk.last >= 0 and not intact(data, walk.last):
        spot, (expected, batch) = walk.last, walk.before
    else:
        spot, expected, batch = min(walk.at, end), walk.expected, walk.batch
    if spot >= end:
        torn = spot if walk.batch.open else None
        return Finding(first=walk.first, following=expected, torn=torn)
    problem = _damage(data, spot, expected, batch)
    if problem is not None:
        return Finding(problem=problem, first=walk.first, following=expected)
    plain = spot != walk.last and _reaches_past_the_end(data, spot)
    never_written = spot != walk.last and not any(data[spot:])
    return Finding(
        end=None if plain or never_written else spot,
        first=walk.first if spot != 0 else None,
        following=expected,
        torn=None if never_written and not walk.batch.open else spot,
    )


def _walk(data: bytes) -> _Walk:
    unpack_head: Callable[[bytes, int], tuple[int, int, int]] = HEAD.unpack_from
    unpack_batch: Callable[[bytes, int], tuple[int, int]] = BATCH.unpack_from
    unpack_beginning: Callable[[bytes, int], tuple[int, int, int, int, int]] = BEGINNING.unpack_from
    at, end, last = 0, len(data), -1
    first = expected = None  # sequences; ``expected`` is that of the next batch
    batch = _Batch()
    before: tuple[int | None, _Batch] = (expected, batch)  # the state at the start of the last record
    while True:
        while not batch.open and end - at >= BEGINNING.size:  # usual case: the same as below, in a tenth of the time
            _, length, kind, sequence, count = unpack_beginning(data, at)
            past = at + HEAD.size + length
            if kind != FULL or length < BATCH.size or sequence != expected or past > end:
                break
            if at // BLOCK != (past - 1) // BLOCK:
                break
            before, last, at, expected = (expected, batch), at, past, sequence + count
        room = BLOCK - at % BLOCK
        if room < HEAD.size:  # padding of a block too full for another head
            at += room
            continue
        if end - at < HEAD.size:
            break
        _, length, kind = unpack_head(data, at)
        if kind not in KNOWN_TYPES or length > min(room, end - at) - HEAD.size:
            break
        goes_on = kind in (MIDDLE, LAST)
        if goes_on != batch.open:  # continues a batch that has not begun, or begins one inside another
            break
        payload = data[at + HEAD.size : at + HEAD.size + min(length, BATCH.size)]
        if goes_on:
            state = (expected, _Batch(batch.head, True))
            if len(batch.head) < BATCH.size:
                batch.head += payload
        else:
            state = (expected, batch)
            if length >= BATCH.size:
                sequence, _ = unpack_batch(data, at + HEAD.size)
                if expected is not None and sequence != expected:
                    break  # RocksDB skips none (tried: families created and dropped, ranges deleted, failures)
                first = sequence if first is None else first
            elif kind == FULL:
                break
            batch = _Batch(payload)
        batch.open = kind in (FIRST, MIDDLE)
        if not batch.open:
            expected = batch.following
        before, last = state, at
        at += HEAD.size + length
    return _Walk(at, last, first, expected, batch, before)


def _reaches_past_the_end(data: bytes, at: int) -> bool:
    """A tear by RocksDB's definition."""
    if len(data) - at < HEAD.size:
        return True
    _, length, kind = HEAD.unpack_from(data, at)
    return kind in KNOWN_TYPES and length > len(data) - at - HEAD.size and len(data) < (at // BLOCK + 1) * BLOCK


def _damage(data: bytes, spot: int, expected: int | None, batch: _Batch) -> str | None:
    """The proof of damage: the wrong record had been written completely; None: it may be a tear."""
    end = len(data)
    unwritten = not any(data[max(spot, end - UNWRITTEN_ZEROS) :])
    if end - spot >= HEAD.size:
        _, length, kind = HEAD.unpack_from(data, spot)
        room = min((spot // BLOCK + 1) * BLOCK, end) - spot - HEAD.size
        if kind in KNOWN_TYPES and length <= room:
            if intact(data, spot):
                sequence = _sequence(data, spot)
                if sequence is None or expected is None or sequence >= expected:
                    return f"the record at byte {spot} does not follow the one before it"
            else:
                follows = spot + HEAD.size + length
                whole = follows == end and not unwritten
                goes_on = kind in (FIRST, MIDDLE) and follows % BLOCK == 0 and intact(data, follows)
                if whole or goes_on or _continues(data, follows, expected, exactly=False):
                    return f"the record at byte {spot} is damaged"
        if any(_was_whole(data, spot, *head, batch) for head in heads_that_fit(data, spot)):
            return f"the head of the record at byte {spot} is damaged: its length or type"
    for boundary in range((spot // BLOCK + 1) * BLOCK, end, BLOCK):
        if _continues(data, boundary, expected, exactly=False):
            return f"the record at byte {spot} is damaged: intact records follow it"
    return None


def heads_that_fit(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """The types and lengths that would make the checksum right, if one of the two has changed."""
    room = min((at // BLOCK + 1) * BLOCK, len(data)) - at - HEAD.size
    if room < 0:
        return
    checksum, length, kind = HEAD.unpack_from(data, at)
    payload = data[at + HEAD.size : at + HEAD.size + room]
    if length <= room:
        for other in sorted(KNOWN_TYPES - {kind}):
            if record_checksum(bytes((other,)) + payload[:length]) == checksum:
                yield other, length
    if kind in KNOWN_TYPES:
        turned = (checksum - MASK_DELTA) & ALL_BITS
        wanted = ((turned >> 17) | (turned << 15)) & ALL_BITS ^ ALL_BITS
        crc, table = _TABLE[(ALL_BITS ^ kind) & 0xFF] ^ (ALL_BITS >> 8), _TABLE
        for size, byte in enumerate(payload):
            if crc == wanted:
                yield kind, size
            crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        if crc == wanted:
            yield kind, len(payload)


def _was_whole(data: bytes, at: int, kind: int, length: int, batch: _Batch) -> bool:
    """Was a record of this type and length written, together with its successor? A checksum may also match by chance,
    or because a user has published a payload made for that."""
    follows = at + HEAD.size + length
    if kind in (FIRST, MIDDLE):  # they fill their block
        return follows % BLOCK == 0 and follows < len(data) and intact(data, follows)
    if kind == FULL:
        head = data[at + HEAD.size : at + HEAD.size + BATCH.size]
        following = _Batch(head).following if length >= BATCH.size else None
        if following is None:
            return False
    else:
        following = batch.following
    if BLOCK - follows % BLOCK < HEAD.size:
        follows += BLOCK - follows % BLOCK
    return not any(data[follows:]) or _continues(data, follows, following, exactly=True)


def _continues(data: bytes, at: int, expected: int | None, *, exactly: bool) -> bool:
    """Does a batch begin here, perhaps after the rest of another, that comes after ours?

    Args:
        expected: its sequence, or (not ``exactly``) the minimum; None: any.
    """
    while True:
        if BLOCK - at % BLOCK < HEAD.size:
            at += BLOCK - at % BLOCK
        if len(data) - at < HEAD.size + BATCH.size:
            return False
        _, length, kind = HEAD.unpack_from(data, at)
        whole = length <= min(len(data), (at // BLOCK + 1) * BLOCK) - at - HEAD.size
        if kind in (MIDDLE, LAST) and not exactly and whole and intact(data, at):
            at += HEAD.size + length
            continue
        if kind not in (FULL, FIRST) or length < BATCH.size:
            return False
        sequence = int(BATCH.unpack_from(data, at + HEAD.size)[0])
        if not whole:  # torn itself: then it must be exactly the expected one
            return exactly and expected is not None and sequence == expected
        right = expected is None or (sequence == expected if exactly else sequence >= expected)
        return right and intact(data, at)


def _sequence(data: bytes, at: int) -> int | None:
    """The sequence of the batch that begins with the record here, if one does."""
    _, length, kind = HEAD.unpack_from(data, at)
    if kind not in (FULL, FIRST) or length < BATCH.size:
        return None
    sequence: int = BATCH.unpack_from(data, at + HEAD.size)[0]
    return sequence


def intact(data: bytes, at: int) -> bool:
    """Is the checksum right, of a record that fits into its block and into the log?"""
    if len(data) - at < HEAD.size:
        return False
    checksum, length, kind = HEAD.unpack_from(data, at)
    if kind not in KNOWN_TYPES or length > min(len(data), (at // BLOCK + 1) * BLOCK) - at - HEAD.size:
        return False
    return bool(record_checksum(data[at + 6 : at + HEAD.size + length]) == checksum)


def record_checksum(typed_payload: bytes) -> int:
    """The masked crc32c over type byte and payload, as in a record's head."""
    crc = ALL_BITS
    for byte in typed_payload:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= ALL_BITS
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & ALL_BITS


def _table_entry(index: int) -> int:
    for _ in range(8):
        index = (index >> 1) ^ (CRC32C_POLYNOMIAL if index & 1 else 0)
    return index


_TABLE = [_table_entry(index) for index in range(256)]
