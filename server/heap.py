"""Memory that is free, given back to the system.

    a channel's parts lie between those of others: when all have gone, glibc keeps the pages, for it only lowers the top

What is free is used again in any case; this is for the machine's other processes, after a crowd has left."""

from __future__ import annotations

import ctypes

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none, or need none


def give_back() -> None:
    """Takes some milliseconds for each 100 MB, without the interpreter; who allocates meanwhile may wait for it."""
    if _malloc_trim is not None:
        _malloc_trim(0)
