"""The sorted names of all channels in memory: a page costs one bisection, plus its own size.

app1:a  app1:b  app1:c:1  app1:c:2  app2:a        keys are ``<app>:<name>``
                ^ after(app1, prefix "c:", ...)"""

from __future__ import annotations

from sortedcontainers import SortedList  # type: ignore[import-untyped]


class ChannelNames:
    """Adding or removing a channel costs about 3 us."""

    def __init__(self) -> None:
        self._keys = SortedList()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str) -> None:
        self._keys.add(key)

    def discard(self, key: str) -> None:
        self._keys.discard(key)

    def after(self, app_id: str, prefix: str, after: str, most: int) -> list[str]:
        """Names of the app's channels with the prefix, greater than ``after``, in order; at most ``most``."""
        start, skip = f"{app_id}:{prefix}", len(app_id) + 1
        found: list[str] = []
        for key in self._keys.irange(max(start, f"{app_id}:{after}")):
            if len(found) == most or not key.startswith(start):
                break
            name = key[skip:]
            if name != after:
                found.append(name)
        return found
