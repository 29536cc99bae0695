"""Identifies the current boot of the machine: written but unsynced data lasts until the next one."""

from __future__ import annotations

from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str:
    """The id of this boot of the machine; empty if the kernel has none, which never counts as the same."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
