from typing import Any, Final, final

@final
class Entry:
    serial: Final[int]
    origin: Final[int]
    previous: Final[int]
    flags: Final[int]
    count: Final[int]
    record: Final[bytes]
    completion: Final[Any]
    followers: Final[list[tuple[Any, int, int]] | None]
    def __init__(
        self, serial: int, record: bytes, origin: int, flags: int, count: int, completion: object = None
    ) -> None: ...
    def follow(self, completion: object, first: int, count: int) -> None: ...
