from typing import Final, final

@final
class Request:
    target: Final[str]
    headers: Final[dict[str, str]]
    answer: Final[bytes]

def parse_upgrade(head: bytes) -> Request | None: ...
