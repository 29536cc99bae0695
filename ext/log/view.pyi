from typing import Any, Final, Self

from typing_extensions import disjoint_base

from ext.log.budget import Share
from ext.log.counters import Meter
from ext.log.entry import Entry
from ext.log.ring import Ring
from ext.log.stream import Stream
from ext.net.shaper import Shaper
from ext.wire.encoder import EntryEncoder

@disjoint_base
class View:
    key: Final[str]
    series: str
    meter: Meter | None
    share: Share | None
    outgoing: Shaper | None
    ring: Ring
    head: int
    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...
    def __init__(self, key: str, series: str) -> None: ...
    def reveal(self, entries: list[Entry]) -> list[Stream]: ...
    def frames_after(
        self, cursor: int, encoder: EntryEncoder, *, budget: int, skip_origin: int = 0, omit: int = 0
    ) -> tuple[int, bytes, int]: ...
    def shown_record(self, serial: int) -> bytes | None: ...
