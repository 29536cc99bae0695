from collections.abc import Callable
from typing import Any, Final, TypeVar

from typing_extensions import disjoint_base

from ext.log.common import Common
from ext.log.entry import Entry
from ext.log.home import Home
from ext.log.stream import Stream
from ext.text.serial import SerialClock

_Block = TypeVar("_Block", bound=tuple[Any, ...])

@disjoint_base
class Sequence:
    clock: Final[SerialClock]
    common: Final[Common]
    @property
    def revealed(self) -> int: ...
    refusing: Any
    def __init__(self, clock: SerialClock, common: Common) -> None: ...
    def __len__(self) -> int: ...
    def stage(
        self,
        home: Home,
        base: str,
        ids: tuple[str, ...] | None,
        count: int,
        of_before: bool,
        flags: int,
        origin: int,
        make_record: Callable[[], bytes],
        completion: object,
    ) -> int: ...
    def take_pending(self, make: type[_Block]) -> tuple[list[tuple[Any, list[Entry]]], list[_Block], bool]: ...
    def part_pending(self) -> tuple[list[tuple[Any, list[Entry]]], list[tuple[Any, list[Entry]]]]: ...
    def reveal(self, groups: list[Any]) -> list[Stream]: ...
    def settle(self, groups: list[Any], error: object = None) -> None: ...
    def refuse(self, groups: list[Any], error: object) -> None: ...
    def leave_open(self, groups: list[Any], error: object) -> int: ...
