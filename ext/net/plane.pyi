from typing import Any, Final, Self, final

from ext.log.stream import Stream
from ext.net.cipher import Cipher
from ext.net.room import Room
from ext.net.sink import Sink
from ext.net.socket import Socket, Sockets

TEXT: int
BINARY: int
GONE: int
VIOLATION: int
BEHIND: int
DRAINED: int
FAILED: int
NO_ROOM: int
HEARTBEATS: tuple[bytes, bytes]

@final
class Plane(Sockets):
    woken: Final[int]
    crowded: bool
    def __new__(
        cls,
        *,
        max_message: int,
        heartbeat_ms: int,
        ping_ms: int,
        lost_ms: int,
        linger_ms: int,
        sends_a_slice: int = 512,
        parts: Room | None = None,
        max_waiting: int = ...,
    ) -> Self: ...
    def limit(self, max_message: int) -> None: ...
    def add(
        self,
        fd: int,
        owner: object,
        *,
        msgpack: bool,
        heartbeats: bool,
        now_ms: int,
        sink: Sink | None = None,
        client: bool = False,
        cipher: Cipher | None = None,
    ) -> Socket: ...
    def feed(self, s: Socket, data: bytes) -> None: ...
    def poll(self, now_ms: int, *, wait_us: int = 0, gather: bool = False) -> list[tuple[Any, int, Any]]: ...
    def answer(self, touched: list[Any]) -> list[Any]: ...
    def moved(self, streams: list[Stream]) -> None: ...
    def flush(self) -> bool: ...
    def tick(self, now_ms: int, *, parts: int = 1) -> bool: ...
