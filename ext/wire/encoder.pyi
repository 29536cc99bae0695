from typing import Final, Self, final

from ext.wire.publish import Publish as Publish
from ext.wire.publish import parse_publish as parse_publish
from ext.wire.record import encode_record as encode_record
from ext.wire.record import record_ids as record_ids
from ext.wire.record import record_messages as record_messages
from ext.wire.record import record_origin as record_origin

JSON: int
MSGPACK: int

@final
class EntryEncoder:
    format: Final[int]
    def __new__(cls, format: int, channel: str) -> Self: ...
    def payload(self, serial: int, series: str, record: bytes) -> bytes: ...
    def frame(self, serial: int, series: str, record: bytes, *, first: int = 0) -> bytes: ...

def ack_payload(format: int, msg_serial: int, stored: list[tuple[int, str, int, int]]) -> bytes: ...
def is_msgpack(payload: bytes) -> bool: ...
