from collections.abc import Callable
from typing import Final, Self, final

from ext.log.dedup import DedupWindow

@final
class Recall:
    window: Final[DedupWindow]
    cursor: Final[int]
    entries: Final[int]
    full: Final[bool]
    def __new__(cls, window: DedupWindow, steady_of: Callable[[int], int], cursor: int, *, until: int) -> Self: ...
    def begin(self, budget: int) -> None: ...
    def take_block(self, key: bytes, value: bytes) -> bool: ...
