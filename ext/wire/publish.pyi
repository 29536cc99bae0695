from typing import Final, final

from ext.wire.plain import Builder

@final
class Publish:
    channel: Final[str]
    msg_serial: Final[int]
    count: Final[int]
    size: Final[int]
    ids: Final[tuple[str, ...] | None]
    client_ids: Final[tuple[str | None, ...] | None]
    ephemeral: Final[bool]
    privileged: Final[bool]
    messages: Final[bytes]
    def __init__(
        self,
        channel: str,
        msg_serial: int,
        count: int,
        size: int,
        ids: tuple[str, ...] | None,
        client_ids: tuple[str | None, ...] | None,
        messages: bytes,
        *,
        ephemeral: bool = False,
        privileged: bool = False,
    ) -> None: ...

@final
class Parser(Builder): ...

def parse_publish(payload: bytes, format: int) -> Publish | None: ...
def parse_messages(body: bytes, format: int) -> Publish | None: ...
