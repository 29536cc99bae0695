from collections.abc import Callable
from typing import Final, Self, final

@final
class Carrier:
    reading: Final[bool]
    finished: Final[bool]
    ended: Final[bool]
    def __new__(cls, wake: Callable[[], object]) -> Self: ...
    def take(self) -> bytearray: ...
    def sent(self) -> None: ...
