"""File descriptors of this process: how many there are, and how many connections may have.

    |== connections: numbers below max_for_connections() ==|== spare: the journal's files, threads, requests =======|
    0                                                                                               the soft limit

Without descriptors the journal could neither write nor be reopened, so no crowd of connections may take them all."""

from __future__ import annotations

import resource

from engine.limits import NEWCOMERS

SPARE_DESCRIPTORS = 1536  # RocksDB keeps up to 1,024 tables open


def raise_limit(connections: int) -> None:
    """Raise the limit as far as the system allows: every connection takes a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 2 * SPARE_DESCRIPTORS  # once more, for files whose numbers lie among the connections'
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most > soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def max_for_connections() -> int:
    """Connections leave descriptors from this number on to others. If there are few, they get three quarters."""
    soft = _soft_limit()
    return soft - min(SPARE_DESCRIPTORS, soft // 4)


def max_newcomers() -> int:
    """The number of connections that may be open without having sent a request."""
    return max(1, min(NEWCOMERS, _soft_limit() // 4))


def _soft_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft
