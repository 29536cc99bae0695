"""Reads RocksDB's MANIFEST without RocksDB, which takes damage at its end for a tear, and opens the older state.

    manifest   records as in a log (``wal``); each, reassembled, is an edit: fields, each a number and its contents
    flushed    the newest sequence of the default family that is in a table. Each append ends with a row of this family,
               so a log that was removed because it is obsolete ends at or before it

An unknown edit ends the reading: then nothing is claimed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.journal.wal import BLOCK, FIRST, FULL, HEAD, KNOWN_TYPES, LAST, heads_that_fit, intact

CHECKED_BYTES = 256 * 1024  # at the end; RocksDB itself detects damage before that
SAFE_TO_IGNORE = 1 << 13  # a field with this bit is a length and as many bytes

FAMILY, CURSOR, NEW_FILE = 200, 5, 103
_NUMBERS = {2: 1, 3: 1, 4: 1, 9: 1, 10: 1, 202: 0, 203: 1, 300: 1, 6: 2}  # fields with that many numbers
_TEXTS = frozenset((1, 201))


@dataclass(frozen=True, slots=True)
class Manifest:
    problem: str | None
    end: int  # of the last whole record
    flushed: int | None  # None: unknown


class _ManifestReader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self) -> int:
        """Raises: IndexError, at the end."""
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def skip(self) -> None:
        """A length, and as many bytes."""
        length = self.number()
        self._at += length


def examine(data: bytes) -> Manifest:
    """The records up to the end or a tear, and the contents of the edits."""
    at, starts = 0, list[int]()
    while True:
        if BLOCK - at % BLOCK < HEAD.size:
            at += BLOCK - at % BLOCK
        if len(data) - at < HEAD.size:
            break
        _, length, kind = HEAD.unpack_from(data, at)
        if kind not in KNOWN_TYPES or length > min(BLOCK - at % BLOCK, len(data) - at) - HEAD.size:
            break
        starts.append(at)
        at += HEAD.size + length
    at = min(at, len(data))
    for start in starts:
        if start >= len(data) - CHECKED_BYTES and not intact(data, start):
            return Manifest(f"the record at byte {start} is damaged", start, None)
    for _, length in heads_that_fit(data, at) if any(data[at:]) else ():
        follows = at + HEAD.size + length
        if not any(data[follows:]) or intact(data, follows):
            return Manifest(f"the head of the record at byte {at} is damaged: its length or type", at, None)
    return Manifest(None, at, _flushed(data, starts))


def _edits(data: bytes, starts: list[int]) -> Iterator[bytes]:
    whole = b""
    for at in starts:
        _, length, kind = HEAD.unpack_from(data, at)
        part = data[at + HEAD.size : at + HEAD.size + length]
        whole = part if kind in (FULL, FIRST) else whole + part
        if kind in (FULL, LAST):
            yield whole


def _flushed(data: bytes, starts: list[int]) -> int | None:
    flushed = 0
    try:
        for edit in _edits(data, starts):
            reader, family, newest = _ManifestReader(edit), 0, 0
            while reader:
                field = reader.number()
                if field == FAMILY:
                    family = reader.number()
                elif field == NEW_FILE:
                    newest = max(newest, _newest_in_file(reader))
                elif field == CURSOR:
                    reader.number()
                    reader.skip()
                elif field in _TEXTS or field & SAFE_TO_IGNORE:
                    reader.skip()
                elif field in _NUMBERS:
                    for _ in range(_NUMBERS[field]):
                        reader.number()
                else:
                    return None
            if family == 0:  # edits do not name it
                flushed = max(flushed, newest)
    except IndexError:
        return None
    return flushed


def _newest_in_file(reader: _ManifestReader) -> int:
    for _ in range(3):  # level, number, size
        reader.number()
    reader.skip()  # first and last key
    reader.skip()
    reader.number()  # first sequence
    newest = reader.number()
    while reader.number() != 1:  # optional fields
        reader.skip()
    return newest
