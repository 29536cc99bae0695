from typing import Self, final

from ext.log.ring import Ring

@final
class Countback:
    @property
    def cursor(self) -> int:
        """Everything after it, up to the head, has been counted."""
    @property
    def messages(self) -> int:
        """So many messages that is."""
    @property
    def next(self) -> int:
        """Serial of the entry before which it has stopped, because that is too old; else 0."""
    @property
    def stopped(self) -> bool:
        """It is where it was aimed at."""
    def __new__(cls, head: int) -> Self: ...
    def aim(self, messages: int, floor: int) -> None: ...
    def budget(self, size: int) -> None: ...
    def take_ring(self, ring: Ring, most: int) -> bool: ...
    def take_block(self, key: bytes, value: bytes) -> bool: ...

def cursor_before(ring: Ring, floor: int) -> int | None: ...
def max_messages(ring: Ring) -> int: ...
