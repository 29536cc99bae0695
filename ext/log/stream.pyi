from typing import Final, Self, final

from typing_extensions import disjoint_base

from ext.log.ring import Column, Ring
from ext.net.shaper import Shaper

@disjoint_base
class Reader: ...

@final
class Stream(Column):
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
