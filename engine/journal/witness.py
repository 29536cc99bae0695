"""The witness: a note of the files that must be there at the next start, because RocksDB opens whatever it finds.

    witness    two slots of 4 KiB, written in turns: crc32 in 8 hex digits | [number, last, durable] in JSON
    last       the boot | MANIFEST and its size | logs and their sizes | sequence, head
    durable    the same, as it was last when all of it was synced

It is written once a second, if something has changed, and when a family was made. A log or manifest only grows until it
is replaced. A note about unsynced data is valid until the machine reboots. A torn slot is skipped. Without a witness
(from an earlier version, or because both slots are damaged) there is nothing to compare."""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from msgspec import json

from engine.journal import manifest
from engine.journal.wal import Finding, number_of

NAME = "witness"
SLOT = 4096
MAX_LOGS = 48  # the newest logs, noted twice in a slot; there are rarely more than a few
_CURRENT = re.compile(rb"MANIFEST-([0-9]+)\n")


@dataclass(frozen=True, slots=True)
class FilesNote:
    boot: str
    manifest: int
    manifest_bytes: int
    logs: dict[str, int]  # size by name
    sequence: int
    head: int


class Witness:
    """The file of one journal. ``noted`` is the note of the last life, for opening the journal."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._number = 0
        self._last: FilesNote | None = None
        self._durable: FilesNote | None = None
        for number, last, durable in self._read():
            if number > self._number:
                self._number, self._last, self._durable = number, last, durable

    @property
    def last(self) -> FilesNote | None:
        return self._last

    def noted(self, boot: str) -> FilesNote | None:
        """The files that must be there, in this boot of the machine; None: unknown."""
        return self._last if boot and self._last is not None and self._last.boot == boot else self._durable

    def _read(self) -> list[tuple[int, FilesNote, FilesNote | None]]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        found = []
        for at in (0, SLOT):
            with contextlib.suppress(ValueError):
                text = data[at : at + SLOT].rstrip(b" ")
                if int(text[:8], 16) == zlib.crc32(text[8:]):
                    found.append(json.decode(text[8:], type=tuple[int, FilesNote, FilesNote | None]))
        return found

    def note(self, noted: FilesNote, *, durable: bool, sync: bool) -> None:
        """Raises: OSError.

        Args:
            durable: all of it is on the disk, and survives a power cut.
            sync: sync the note, too.
        """
        if durable:
            self._durable = noted
        if noted == self._last:
            return
        text = json.encode((self._number + 1, noted, self._durable))
        slot = b"%08x%s" % (zlib.crc32(text), text)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, slot.ljust(SLOT), (self._number + 1) % 2 * SLOT)
            if sync:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._number += 1
        self._last = noted


def manifest_in(directory: Path) -> tuple[int, int]:
    """The number and size of the current manifest. Raises: OSError."""
    current = _CURRENT.fullmatch((directory / "CURRENT").read_bytes())
    number = int(current[1]) if current is not None else 0
    return number, (directory / f"MANIFEST-{number:06d}").stat().st_size


def logs_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.log"), key=number_of)[-MAX_LOGS:]


def sizes_of(logs: list[Path]) -> dict[str, int]:
    sizes = {}
    for log in logs:
        with contextlib.suppress(FileNotFoundError):  # RocksDB may remove obsolete files at any time
            sizes[log.name] = log.stat().st_size
    return sizes


def missing(directory: Path, noted: FilesNote | None, found: list[tuple[Path, Finding]]) -> str | None:
    """The missing or damaged file of a closed database, if RocksDB would not notice; None if there is none.

    Args:
        found: the findings about its logs.
    Raises: OSError.
    """
    try:
        current = (directory / "CURRENT").read_bytes()
    except FileNotFoundError:
        remains = [file.name for file, about in found if about.first is not None]
        remains += [file.name for file in directory.glob("*.sst")]
        remains += [NAME] if noted is not None else []
        return f"CURRENT: is missing, although {remains[0]} exists" if remains else None
    match = _CURRENT.fullmatch(current)
    if match is None:
        return "CURRENT: is damaged: it names no MANIFEST"
    number, name = int(match[1]), current.decode().strip()
    try:
        data = (directory / name).read_bytes()
    except FileNotFoundError:
        return f"{name}: is missing, although CURRENT names it"
    edits = manifest.examine(data)
    if edits.problem is not None:
        return f"{name}: {edits.problem}"
    gap = _gap(found, edits.flushed)
    if gap is not None:
        return gap
    if noted is None:
        return None
    if number < noted.manifest:
        return f"CURRENT: names {name}, but MANIFEST-{noted.manifest:06d} was in use"
    if number == noted.manifest and edits.end < noted.manifest_bytes:
        return f"{name}: ends at byte {edits.end}, but had {noted.manifest_bytes} bytes"
    return _missing_log(found, noted, edits.flushed)


def _gap(found: list[tuple[Path, Finding]], flushed: int | None) -> str | None:
    with_batches = [(log, about) for log, about in found if about.first is not None and about.following is not None]
    for (before, earlier), (log, later) in pairwise(with_batches):
        assert earlier.following is not None
        assert later.first is not None
        if flushed is not None and earlier.following < later.first and flushed < later.first - 1:
            lost = f"{earlier.following} to {later.first - 1}"
            return f"a log between {before.name} and {log.name} is missing, with the sequences {lost}"
    return None


def _missing_log(found: list[tuple[Path, Finding]], noted: FilesNote, flushed: int | None) -> str | None:
    there = {log.name: log.stat().st_size for log, _ in found}
    for name, size in noted.logs.items():
        if name in there:
            if there[name] < size:
                return f"{name}: has {there[name]} bytes, but had {size}"
            continue
        number = number_of(Path(name))
        later = [about.first for log, about in found if number_of(log) > number and about.first is not None]
        needed = later[0] - 1 if later else noted.sequence
        if size and flushed is not None and flushed < needed:
            return f"{name}: is missing: it had sequences up to {needed}, but tables only have those up to {flushed}"
    return None
