"""The names of all channels that are in memory, in order: a page of them costs what it holds, and one bisection.

app1:a  app1:b  app1:c:1  app1:c:2  app2:a        keys are ``<app>:<name>``
                ^ after(app1, prefix "c:", ...)"""

from __future__ import annotations

from sortedcontainers import SortedList  # type: ignore[import-untyped]


class ChannelNames:
    """A channel costs some 3 us when it comes, and when it goes."""

    def __init__(self) -> None:
        self._keys = SortedList()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str) -> None:
        self._keys.add(key)

    def discard(self, key: str) -> None:
        self._keys.discard(key)

    def after(self, app_id: str, prefix: str, after: str, most: int) -> list[str]:
        """At most so many names of the app's channels that begin with the prefix and come after that one, in order."""
        start, skip = f"{app_id}:{prefix}", len(app_id) + 1
        found: list[str] = []
        for key in self._keys.irange(max(start, f"{app_id}:{after}")):
            if len(found) == most or not key.startswith(start):
                break
            name = key[skip:]
            if name != after:
                found.append(name)
        return found
