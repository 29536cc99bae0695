from typing import Final, Protocol, Self, final

from typing_extensions import disjoint_base

from ext.log.budget import Budget, Holder, Share
from ext.net.shaper import Shaper

EPHEMERAL: int

class Evicted(LookupError):
    cursor: int
    evicted: int
    def __init__(self, cursor: int, evicted: int) -> None: ...

class _Encoder(Protocol):
    def frame(self, serial: int, series: str, record: bytes) -> bytes: ...

class _Lives(Protocol):
    def series_of(self, serial: int) -> str: ...

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

@disjoint_base
class Reader: ...

@final
class Stream(Holder):
    ring: Final[Ring]
    encoder: Final[object]
    shaper: Shaper | None
    first: Final[int]
    head: Final[int]
    tail: Final[int]
    allocated: Final[int]
    def __new__(cls, ring: Ring, encoder: object) -> Self: ...
    def close(self) -> None: ...
    @property
    def readers_now(self) -> int: ...
    def append(self, frame: bytes) -> None: ...
    def place_after(self, cursor: int) -> int | None: ...
    def cursor_at(self, place: int) -> int | None: ...
    def read(
        self, place: int, *, budget: int, skip_origin: int = 0, quiet_until: int = 0
    ) -> tuple[int, list[bytes]] | None: ...
