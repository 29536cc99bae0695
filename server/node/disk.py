"""Watches the free space of the data directory's disk: warns before it is full, and reports when there is space
again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from server.logs import facts

LOGGER = logging.getLogger("unbroken")

LOW_BYTES = 1 << 30  # free bytes
LOW_SHARE = 20  # one in this many of all bytes; the smaller of the two limits counts as low
EASED = 1.5  # this many times the limit must be free to end the warning; without the gap, each bucket would toggle it


class DiskWatch:
    """Watches one directory."""

    def __init__(self, path: Path, usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage) -> None:
        """``usage``: total, used and free bytes of the disk; replaced in tests."""
        self._path = path
        self._usage = usage
        self.low = False

    def look(self) -> None:
        """May take long if a disk hangs: run it in a thread. Raises: OSError."""
        total, _, free = self._usage(self._path)
        least = min(LOW_BYTES, total // LOW_SHARE)
        if not self.low and free < least:
            self.low = True
            LOGGER.warning(
                "the disk is almost full: %d MiB are free; when it is full, publishes are refused until there is space",
                free >> 20,
                extra=facts("disk_low", free_bytes=free, total_bytes=total),
            )
        elif self.low and free >= least * EASED:
            self.low = False
            LOGGER.info(
                "the disk has enough space again: %d MiB are free",
                free >> 20,
                extra=facts("disk_eased", free_bytes=free, total_bytes=total),
            )
