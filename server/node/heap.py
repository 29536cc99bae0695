"""Free memory: kept for reuse, or returned to the system.

keep_some      under load, blocks of about 100 KiB come and go: reuse the same pages each time
give_back      the parts of a channel lie between those of others: when all are freed, glibc keeps the pages below the
               top. They are reused in any case; returning them after a crowd helps the machine's other processes
machine_bytes  the memory available to this process: the basis of budgets"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LIBC = ctypes.CDLL(None)
_malloc_trim = getattr(_LIBC, "malloc_trim", None)  # other C libraries have none, or need none
_mallopt = getattr(_LIBC, "mallopt", None)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
# A batch of writes, a segment of frames, a batch of a replay: about 100 to 600 KiB, again and again. glibc would map
# new pages for each, which the kernel has to clear: about 1 us for each 4 KiB.
KEPT_BLOCK_BYTES = 768 << 10
KEPT_FREE_BYTES = 16 << 20


def keep_some() -> None:
    """From now on keep a part of the freed memory for reuse. Call it before threads start."""
    if _mallopt is not None:
        _mallopt(_M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
        _mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)


def give_back() -> None:
    """Takes a few milliseconds per 100 MB, without the interpreter lock; concurrent allocations may wait for it."""
    if _malloc_trim is not None:
        _malloc_trim(0)


class Falling:
    """Detects a drop by ``size`` bytes, from the highest value since the last drop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._highest = 0

    def by_enough(self, now: int) -> bool:
        self._highest = max(self._highest, now)
        if self._highest - now < self._size:
            return False
        self._highest = now
        return True


def machine_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process may use: the machine's, or the limit of its control groups; None if unknown.

    Source: cgroups(7); the kernel's documentation, cgroup-v2 (memory.max) and cgroup-v1/memory (memory.limit_in_bytes).
    """
    known = list(_group_bytes(root))
    with suppress(OSError, ValueError):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((size for size in known if size > 0), default=None)


def _group_bytes(root: Path) -> Iterator[int]:
    """The limits of our groups and their ancestors. (A container may show only its own group, as the root.)"""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts) + 1):
            limit = _text(top.joinpath(*parts[:depth], name)).strip()
            if limit.isdecimal():  # "max" means no limit
                yield int(limit)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
