from typing import Final, final

@final
class Author:
    connection_id: Final[str | None]
    client_id: Final[str | None]
    wildcard: Final[bool]
    inherited: Final[bool]
    origin: Final[int]
    def __init__(
        self, connection_id: str | None, client_id: str | None, *, wildcard: bool = False, inherited: bool = False
    ) -> None: ...
    def permits_client_id(self, client_id: str | None) -> bool: ...
    def permits_id(self, message_id: str) -> bool: ...
