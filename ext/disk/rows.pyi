from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, final

from ext.log.kept import Kept

@final
class Rows:
    rows: Final[list[tuple[str, bytes, bytes]]]
    placed: Final[list[tuple[Any, str]]]
    refused: Final[dict[str, str]]
    newest: Final[int]
    def __init__(
        self,
        blocks: Iterable[tuple[str, str, str, Sequence[tuple[int, int, bytes]] | Kept]],
        head: int,
        find: Callable[[str, int], tuple[Any, str, int, int, set[str] | None]],
    ) -> None: ...
