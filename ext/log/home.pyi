from typing import Any, Self

from typing_extensions import disjoint_base

from ext.log.dedup import DedupWindow
from ext.log.entry import Entry
from ext.log.prints import Prints
from ext.log.rate import Rate
from ext.log.view import View

@disjoint_base
class Home(View):
    sequence: Any
    kept: bool
    synced: bool
    retention: str | None
    persisted: bool
    incoming: Rate | None
    max_bytes: int
    awake: bool
    dedup: DedupWindow
    earlier: DedupWindow | None
    recalled: bool
    held: dict[object, Any] | None
    prints: Prints | None
    last_stored: int
    last_used_ms: int
    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...
    def __init__(self, key: str, series: str, *, kept: bool) -> None: ...
    @property
    def staged(self) -> int: ...
    @property
    def first_under_way(self) -> int: ...
    def staged_entry(self, serial: int) -> Entry | None: ...
