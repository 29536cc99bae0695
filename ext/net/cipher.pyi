from ssl import MemoryBIO, SSLObject
from typing import final

@final
class Cipher:
    def __init__(self, tls: SSLObject, incoming: MemoryBIO, outgoing: MemoryBIO, records: bytes = b"") -> None: ...
