from typing import Self, final

CONTINUATION: int
TEXT: int
BINARY: int
CLOSE: int
PING: int
PONG: int
ERROR: int

class FrameEvent:
    kind: int
    payload: bytes
    code: int
    def __init__(self, kind: int, payload: bytes, code: int) -> None: ...
    def __eq__(self, other: object) -> bool: ...

@final
class FrameDecoder:
    def __new__(cls, max_message: int, *, client_side: bool = False) -> Self: ...
    def receive(self, data: bytes | bytearray | memoryview) -> list[FrameEvent]: ...
    @property
    def buffered(self) -> int: ...

def encode_frame(opcode: int, payload: bytes) -> bytes: ...
def encode_close(code: int, reason: str = "") -> bytes: ...
