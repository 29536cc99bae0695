"""A journal that holds nothing, for a server whose namespaces all have durability ``memory``.

    head, forgotten_floor    the newest serial it was given: earlier entries are in rings, or dropped

Only a cursor at the head is continuous here; the ring answers for the entries that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.journal.buckets import retention_ms
from engine.journal.failing import Failing
from engine.journal.lives import Lives, new_series
from engine.journal.port import NONE_REFUSED, Block, Refused, Taker
from engine.timeline import Timeline

LONGEST_WINDOW_MS = 3 * 86_400_000  # longer than settings allow for message ids and rings


class MemoryJournal:
    """See ``engine.journal.port.Journal``. A new series with every start, so no cursor outlives one."""

    def __init__(self) -> None:
        self.failing = Failing()  # never used here
        self._lives = Lives([new_series()])
        self.timeline = Timeline()
        self.clock_noted: bytes | None = None
        self._head = 0
        self._notes: dict[bytes, bytes] = {}

    def lives_for(self, synced: bool) -> Lives:
        return self._lives

    def series_for(self, synced: bool) -> str:
        return self._lives.series

    def head(self) -> int:
        return self._head

    def raise_head(self, serial: int) -> None:
        self._head = max(self._head, serial)

    def append(self, blocks: Sequence[Block], *, synced: bool) -> Refused:
        for block in blocks:
            self._head = max(self._head, block.entries[-1][0])
        return NONE_REFUSED

    def begin(self, blocks: Sequence[Block], *, synced: bool, wake_fd: int) -> bool:
        self.append(blocks, synced=synced)
        return True

    @property
    def ended(self) -> bool:
        return True

    def wait(self) -> None:
        pass

    def end(self) -> Refused:
        return NONE_REFUSED

    def feed(self, channel: str, taker: Taker) -> bool:
        return False

    def feed_back(self, channel: str, taker: Taker) -> bool:
        return False

    def holds(self, channel: str, serial: int) -> bool:
        return False

    def forgotten_floor(self, retention: str) -> int:
        retention_ms(retention, 1)
        return self._head

    def last_serial(self, channel: str) -> int:
        return 0

    def continuous(self, channel: str, retention: str, cursor: int) -> bool:
        return cursor >= self.forgotten_floor(retention)

    def relayout(self, layout: str) -> None:
        """Nothing is held."""

    def forget(self, app_prefix: str) -> None:
        """Nothing is held."""

    def erase(self, channel: str, serials: Sequence[int]) -> None:
        """Nothing is held."""

    def recover(self) -> None:
        """An append cannot fail."""

    def maintain(self, now_ms: int, noted: bytes = b"") -> None:
        """Nothing is held; only rings ask for the age of entries, and for a day at most."""
        self.timeline.prune(self.timeline.older_than(now_ms - LONGEST_WINDOW_MS))

    def note(self, rows: Mapping[bytes, bytes], forget: Sequence[tuple[bytes, bytes]] = ()) -> None:
        kept = {
            key: value for key, value in self._notes.items() if not any(begin <= key < end for begin, end in forget)
        }
        self._notes = kept | dict(rows)  # replaced, never changed: another thread may be reading it

    def noted(self, begin: bytes, end: bytes, *, limit: int, backwards: bool = False) -> list[tuple[bytes, bytes]]:
        found = sorted((item for item in self._notes.items() if begin <= item[0] < end), reverse=backwards)
        return found[:limit]

    def close(self) -> None:
        """Nothing is held."""
