from collections.abc import Callable
from typing import Final, final

from ext.log.author import Author
from ext.log.common import Common
from ext.log.home import Home
from ext.log.terms import Terms

@final
class Place:
    def __init__(self, home: Home, channel: str, *, msgpack: bool) -> None: ...

@final
class Permit:
    app_id: Final[str]
    good_until_ms: Final[int]
    def __init__(
        self,
        common: Common,
        author: Author,
        terms: Terms,
        app_id: str,
        head: bytes,
        refuse: Callable[[object], bytes],
        *,
        msgpack_in: bool,
        msgpack_out: bool,
        good_until_ms: int,
    ) -> None: ...
    def grant(self, target: str, place: Place) -> None: ...
