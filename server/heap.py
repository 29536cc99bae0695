"""Memory that is free: kept for what comes next, or given back to the system.

    keep_some   under load, blocks of some 100 KiB come and go: they are the same pages each time
    give_back   a channel's parts lie between those of others: when all have gone, glibc keeps the pages below the top.
                They are used again in any case; this is for the machine's other processes, after a crowd has left"""

from __future__ import annotations

import ctypes

_LIBC = ctypes.CDLL(None)
_malloc_trim = getattr(_LIBC, "malloc_trim", None)  # other C libraries have none, or need none
_mallopt = getattr(_LIBC, "mallopt", None)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
# A batch of writes, a segment of frames, a batch of a replay: some 100 to 600 KiB, again and again. glibc would map
# new pages for each, which the kernel has to clear: some 1 us for each 4 KiB.
KEPT_BLOCK_BYTES = 768 << 10
KEPT_FREE_BYTES = 16 << 20


def keep_some() -> None:
    """From now on keep so much of what is freed for what will be wanted next. Before there are threads."""
    if _mallopt is not None:
        _mallopt(_M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
        _mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)


def give_back() -> None:
    """Takes some milliseconds for each 100 MB, without the interpreter; who allocates meanwhile may wait for it."""
    if _malloc_trim is not None:
        _malloc_trim(0)
