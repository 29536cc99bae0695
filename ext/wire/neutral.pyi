from collections.abc import Callable
from typing import Any, Final, final

@final
class Packer:
    count: Final[int]
    ephemeral: Final[int]
    privileged: Final[bool]
    size: Final[int]
    ids: Final[list[str]]
    client_ids: Final[list[str | None]]
    def __init__(self, to_json: Callable[[Any], bytes], *, base64: bool) -> None: ...
    def add(self, message: dict[Any, Any]) -> bool: ...
    def messages(self) -> bytes: ...

def is_finite(value: object) -> bool: ...
