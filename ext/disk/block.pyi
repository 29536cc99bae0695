from collections.abc import Sequence
from typing import TypeVar

_Entry = TypeVar("_Entry", bound=tuple[int, int, str, bytes])

MAX_ENTRIES: int
MAX_BYTES: int

def encode(
    channel: bytes, series: bytes, entries: Sequence[tuple[int, int, bytes]], before: int
) -> list[tuple[bytes, bytes]]: ...
def decode(key: bytes, value: bytes, make: type[_Entry]) -> list[_Entry]: ...
