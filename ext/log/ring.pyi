from typing import Final, Protocol, Self, final

from ext.log.budget import Budget, Holder, Share
from ext.log.stream import Stream

EPHEMERAL: int

class Evicted(LookupError):
    cursor: int
    evicted: int
    def __init__(self, cursor: int, evicted: int) -> None: ...

class _Lives(Protocol):
    def series_of(self, serial: int) -> str: ...

class Column(Holder): ...

@final
class Ring(Holder):
    oldest: Final[int]
    newest: Final[int]
    evicted: Final[int]
    held_bytes: Final[int]
    streams: Final[list[Stream]]
    series: Final[str | None]
    budget: Final[Budget]
    def __new__(
        cls,
        max_entries: int,
        max_bytes: int,
        evicted: int = 0,
        series: str | None = None,
        share: Share | None = None,
        began: int = 0,
        earlier: _Lives | None = None,
    ) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def head(self) -> int: ...
    def append(self, serial: int, entry: object, size: int, origin: int = 0, flags: int = 0) -> None: ...
    def trim(self, cursor: int) -> None: ...
    def read_after(self, cursor: int, *, budget: int, skip_origin: int = 0) -> tuple[int, list[object]]: ...
    def read_before(self, cursor: int, *, limit: int) -> list[object]: ...
