from typing import Any, Final, Self

from typing_extensions import disjoint_base

from ext.budget import Share
from ext.entry import Entry
from ext.meter import Meter
from ext.ring import Ring, Stream
from ext.shaper import Shaper
from ext.wire import EntryEncoder

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
