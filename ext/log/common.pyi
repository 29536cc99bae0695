from typing_extensions import disjoint_base

from ext.log.counters import Meter

def share_of(most: int, taken: int) -> int: ...

@disjoint_base
class Common:
    now_ms: int
    steady_ms: int
    pending_bytes: int
    max_staged: int
    max_pending: int
    @property
    def congested(self) -> bool: ...
    @property
    def overfull(self) -> bool: ...
    remembered: int
    max_remembered: int
    shared: bool
    def __init__(self, max_remembered: int) -> None: ...
    def recall(self, meter: Meter | None, count: int) -> None: ...
    def forget(self, meter: Meter | None, count: int) -> None: ...
