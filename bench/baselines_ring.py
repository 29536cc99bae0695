"""What a good engineer would write in plain Python for ext.log.ring: lists beside each other, and bisection.

    _serials  _entries  _ends (running total of bytes)      by position; those before _gone were let go of

A deque would let go of its front for nothing, but is walked and not indexed: a read from its middle costs more than
cutting off the lists' front now and then. Frames are kept once, as bytes, and shared by all readers."""

from __future__ import annotations

from bisect import bisect_right

CUT_AT = 4096  # entries let go of: the lists' front is cut off when there are so many, which costs one copy


class PlainEvictedError(LookupError):
    """Something after the cursor is no longer held."""


class PlainRing:
    """The newest entries of a channel, bounded by their number and their bytes."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.evicted = 0
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._serials: list[int] = []
        self._entries: list[object] = []
        self._origins: list[int] = []
        self._ends: list[int] = []
        self._gone = 0
        self._gone_bytes = 0

    @property
    def held_bytes(self) -> int:
        return (self._ends[-1] if self._ends else self._gone_bytes) - self._gone_bytes

    def append(self, serial: int, entry: object, size: int, origin: int = 0) -> None:
        serials, ends = self._serials, self._ends
        if serial <= (serials[-1] if serials else self.evicted):
            raise ValueError(f"serial {serial} does not come after the newest")
        end = (ends[-1] if ends else self._gone_bytes) + size
        while self._gone < len(serials) and (
            len(serials) - self._gone >= self._max_entries or end - self._gone_bytes > self._max_bytes
        ):
            self.evicted, self._gone_bytes = serials[self._gone], ends[self._gone]
            self._entries[self._gone] = None
            self._gone += 1
        if self._gone >= CUT_AT:
            gone = slice(None, self._gone)
            del serials[gone], self._entries[gone], self._origins[gone], ends[gone]
            self._gone = 0
        serials.append(serial)
        self._entries.append(entry)
        self._origins.append(origin)
        ends.append(end)

    def read_after(self, cursor: int, *, budget: int, skip_origin: int = 0) -> tuple[int, list[object]]:
        if cursor < self.evicted:
            raise PlainEvictedError(cursor)
        first = bisect_right(self._serials, cursor, self._gone)
        if first == len(self._serials):
            return cursor, []
        before = self._ends[first - 1] if first else self._gone_bytes
        last = max(first + 1, bisect_right(self._ends, before + budget, first))
        found = self._entries[first:last]
        if skip_origin:
            origins = self._origins[first:last]
            found = [entry for entry, origin in zip(found, origins, strict=True) if origin != skip_origin]
        return self._serials[last - 1], found


class PlainStream:
    """The same entries' frames in one format; ``place_after`` gives the number of the first one to send."""

    def __init__(self, max_frames: int) -> None:
        self.evicted = 0
        self._max_frames = max_frames
        self._serials: list[int] = []
        self._frames: list[bytes] = []
        self._gone = 0
        self._cut = 0  # numbers that belonged to what was cut off the lists

    def append(self, serial: int, frame: bytes) -> None:
        if len(self._frames) - self._gone >= self._max_frames:
            self.evicted = self._serials[self._gone]
            self._frames[self._gone] = b""
            self._gone += 1
            if self._gone >= CUT_AT:
                del self._serials[: self._gone], self._frames[: self._gone]
                self._cut += self._gone
                self._gone = 0
        self._serials.append(serial)
        self._frames.append(frame)

    def place_after(self, cursor: int) -> int | None:
        if cursor < self.evicted:
            return None
        return self._cut + bisect_right(self._serials, cursor, self._gone)

    def read(self, place: int) -> list[bytes]:
        return self._frames[place - self._cut :]
