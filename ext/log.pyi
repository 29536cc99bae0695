from typing import Any, Final, Self, final

from typing_extensions import disjoint_base

from ext.budget import Share
from ext.dedup import DedupWindow
from ext.meter import Meter
from ext.prints import Prints
from ext.rate import Rate
from ext.ring import Ring
from ext.shaper import Shaper
from ext.wire import EntryEncoder

@final
class Entry:
    log: Final[Log]
    serial: Final[int]
    origin: Final[int]
    previous: Final[int]
    flags: Final[int]
    count: Final[int]
    record: Final[bytes]
    completion: Final[Any]
    followers: Final[list[tuple[Any, int, int]] | None]
    def __init__(
        self, log: Log, serial: int, record: bytes, origin: int, flags: int, count: int, completion: object
    ) -> None: ...
    def follow(self, completion: object, first: int, count: int) -> None: ...

@disjoint_base
class Log:
    key: Final[str]
    series: str
    kept: bool
    synced: bool
    retention: str | None
    persisted: bool
    meter: Meter | None
    share: Share | None
    incoming: Rate | None
    outgoing: Shaper | None
    most_bytes: int
    awake: bool
    dedup: DedupWindow
    earlier: DedupWindow | None
    recalled: bool
    held: dict[object, Any] | None
    prints: Prints | None
    ring: Ring
    head: int
    last_stored: int
    last_used_ms: int
    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...
    def __init__(self, key: str, series: str, *, kept: bool) -> None: ...
    @property
    def staged(self) -> int: ...
    @property
    def first_under_way(self) -> int: ...
    def commit(self, serial: int, record: bytes, origin: int, flags: int) -> None: ...
    def frames_after(
        self, cursor: int, encoder: EntryEncoder, *, budget: int, skip_origin: int = 0
    ) -> tuple[int, bytes, int]: ...
    def staged_entry(self, serial: int) -> Entry | None: ...
    def shown_record(self, serial: int) -> bytes | None: ...
