"""Suggests a known name for an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

OTHERWISE = {  # names in other servers
    "port": "listen",
    "host": "listen",
    "bind": "listen",
    "address": "listen",
    "bind_address": "listen",
    "listen_address": "listen",
    "data_dir": "data",
    "data_directory": "data",
    "directory": "data",
    "path": "data",
    "cert": "tls_cert",
    "certificate": "tls_cert",
    "loglevel": "log_level",
    "verbose": "log_level",
    "level": "log_level",
    "keys": "key",
    "clients": "subscribers",
    "connections": "subscribers",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean listen?``, with the nearest known name; empty if none is near.

    Ignores case, prefixes and the kind of dash: ``--log-level`` and ``UNBROKEN_LOG_LEVEL`` are near each other.
    """
    by_plain = {_plain(each): each for each in known}
    plain = _plain(name)
    near = [plain] if plain in by_plain else []
    if not near and OTHERWISE.get(plain) in by_plain:
        near = [OTHERWISE[plain]]
    near = near or difflib.get_close_matches(plain, by_plain, n=1)
    return f"; did you mean {by_plain[near[0]]}?" if near else ""


def _plain(name: str) -> str:
    return name.partition("=")[0].lstrip("-").lower().replace("-", "_").removeprefix("unbroken_").rpartition(".")[2]
