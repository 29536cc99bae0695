from typing_extensions import disjoint_base

from ext.log.counters import Meter

def share_of(most: int, taken: int) -> int: ...

@disjoint_base
class Common:
    now_ms: int
    steady_ms: int
    pending_bytes: int
    most_pending: int
    remembered: int
    most_remembered: int
    shared: bool
    def __init__(self, most_remembered: int) -> None: ...
    def admits(self, meter: Meter | None, count: int) -> bool: ...
    def recall(self, meter: Meter | None, count: int) -> None: ...
    def forget(self, meter: Meter | None, count: int) -> None: ...
