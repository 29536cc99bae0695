from typing import final

from ext.log.common import Common
from ext.log.home import Home
from ext.log.rate import Rate
from ext.net.sink import Sink
from ext.wire.acks import AckQueue

@final
class Ingest(Sink):
    def __init__(
        self,
        common: Common,
        acks: AckQueue,
        connection_id: str,
        client_id: str | None,
        *,
        most_bytes: int,
        most_messages: int,
        most_unanswered: int,
        most_pending: int,
        inherited: bool = False,
    ) -> None: ...
    def identify(self, client_id: str | None) -> None: ...
    def bound(self, connection: Rate | None, key: Rate, app: Rate, *, most_bytes: int) -> None: ...
    def limit(self, *, most_messages: int, most_pending: int) -> None: ...
    def grant(self, name: str, home: Home) -> None: ...
    def revoke(self, name: str) -> None: ...
    def revoke_all(self) -> None: ...
    def offer(self, payload: bytes, binary: bool) -> bool: ...
