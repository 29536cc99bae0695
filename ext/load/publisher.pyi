from typing import Any, Final, final

from ext.load.histogram import Histogram
from ext.load.ranges import Ranges

MARK_BYTES: int
MAX_EXAMPLES: int
MAX_RANGES: int

def now_ns() -> int: ...

@final
class Template:
    count: Final[int]
    def __init__(self, before: bytes, after: bytes, binary: bool, run: bytes, publisher: int) -> None: ...
    def make(self, number: int, sequence: int, due_ns: int) -> bytes: ...

@final
class Tally:
    latency: Final[Histogram]
    ack_latency: Final[Histogram]
    delivered: Final[int]
    acknowledged: Final[int]
    repeats: Final[int]
    inversions: Final[int]
    missing: Final[int]
    unlocated: Final[int]
    misplaced: Final[int]
    stray_acks: Final[int]
    refused_deliveries: Final[int]
    examples: Final[list[str]]
    publishers: Final[dict[int, Publisher]]
    def __init__(self, run: bytes, *, max_ranges: int = 4_000_000) -> None: ...
    def measure(self, from_ns: int, to_ns: int) -> None: ...

@final
class Publisher:
    sent: Final[int]
    answered: Final[int]
    refused: Final[int]
    number: Final[int]
    per_publish: Final[int]
    owner: Final[Any]
    refused_messages: Final[Ranges]
    def __init__(
        self, tally: Tally, number: int, template: Template, owner: object, touched: list[Publisher]
    ) -> None: ...
    def frames(self, due_ns: list[int]) -> bytes: ...
    def unanswered_frames(self) -> bytes: ...
    def refuse(self, first: int, count: int) -> None: ...
    def acknowledge(self, first: int, count: int) -> None: ...
    def taken(self) -> None: ...
