from typing import Final, final

from ext.log.rate import Rate

@final
class Terms:
    connection: Final[Rate | None]
    key: Final[Rate]
    app: Final[Rate]
    max_bytes: Final[int]
    max_messages: Final[int]
    def __init__(self, connection: Rate | None, key: Rate, app: Rate, *, max_bytes: int, max_messages: int) -> None: ...
    def check(self, count: int, size: int) -> int: ...
    def admit(self, channel: Rate | None, max_bytes: int, count: int, size: int, now_ms: int) -> int: ...
    def look(self, channel: Rate | None, max_bytes: int, size: int, now_ms: int) -> int: ...
