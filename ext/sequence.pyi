from typing import Any, Final, TypeVar

from typing_extensions import disjoint_base

from ext.log import Entry, Log
from ext.ring import Stream
from ext.serial import SerialClock

_Block = TypeVar("_Block", bound=tuple[Any, ...])

@disjoint_base
class Sequence:
    clock: Final[SerialClock]
    pending_bytes: int
    remembered: int
    most_remembered: Final[int]
    now_ms: int
    def __init__(self, clock: SerialClock, most_remembered: int) -> None: ...
    def __len__(self) -> int: ...
    def push(
        self, log: Log, serial: int, record: bytes, origin: int, flags: int, count: int, completion: object
    ) -> None: ...
    def take_pending(self, make: type[_Block]) -> tuple[list[tuple[Any, list[Entry]]], list[_Block], bool]: ...
    def show(self, groups: list[Any]) -> list[Stream]: ...
    def settle(self, groups: list[Any], error: object) -> None: ...
