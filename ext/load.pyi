from typing import Any, Final, final

from ext.histogram import Histogram
from ext.sink import Sink

MARK_BYTES: int
MOST_RANGES: int

def now_ns() -> int: ...
@final
class Template:
    def __init__(self, before: bytes, after: bytes, binary: bool, run: bytes, publisher: int) -> None: ...
    @property
    def count(self) -> int: ...
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
    measuring: Final[bool]
    examples: Final[list[str]]
    def __init__(self, run: bytes) -> None: ...
    def measure(self, on: bool) -> None: ...

@final
class Publisher:
    sent: Final[int]
    answered: Final[int]
    refused: Final[int]
    number: Final[int]
    per_publish: Final[int]
    owner: Final[Any]
    refused_sequences: Final[set[int]]
    def __init__(
        self, tally: Tally, number: int, per_publish: int, owner: object, touched: list[Publisher]
    ) -> None: ...
    def note_sent(self, due_ns: int) -> None: ...
    def refuse(self, first: int, count: int) -> None: ...
    def acknowledge(self, first: int, count: int) -> None: ...
    def taken(self) -> None: ...

@final
class Receiver(Sink):
    number: Final[int]
    channel: Final[int]
    channels: Final[int]
    received: Final[int]
    publisher: Final[Publisher | None]
    def __init__(
        self,
        tally: Tally,
        number: int,
        channel: int,
        channels: int,
        publishers: int,
        publisher: Publisher | None,
        *,
        keep_serial: bool = False,
    ) -> None: ...
    @property
    def channel_serial(self) -> str | None: ...
    def start_from(self, serial: str) -> None: ...
    def offer(self, payload: bytes, binary: bool) -> bool: ...
    def expected(self, publisher: int) -> int: ...
    def missing(self, publisher: int) -> list[tuple[int, int]]: ...
