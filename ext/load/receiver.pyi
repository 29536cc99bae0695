from typing import Final, final

from ext.load.publisher import Publisher, Tally
from ext.net.sink import Sink

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
    def forgiven(self, publisher: int) -> int: ...
    def forgive(self) -> None: ...
