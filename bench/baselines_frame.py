"""What a good engineer would write in plain Python for ext.wire.frame: slices, struct, unmasking as one integer."""

import struct

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, ERROR = 0, 1, 2, 8, 9, 10, -1
_WITH_KEY = 4


class ProtocolError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def mask(payload: bytes, key: bytes) -> bytes:
    """As one integer: the fastest way without a library, some 10 times faster than byte by byte."""
    size = len(payload)
    keys = key * (size // 4 + 1)
    return (int.from_bytes(payload, "little") ^ int.from_bytes(keys[:size], "little")).to_bytes(size, "little")


class PlainFrameDecoder:
    """As strict as ext.wire.frame, for masked frames; raises where that one has an event of the kind ERROR."""

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._held = b""
        self._fragments: list[bytes] = []
        self._opcode = 0
        self._gathered = 0

    def receive(self, data: bytes) -> list[tuple[int, bytes, int]]:
        data = self._held + data if self._held else data
        events: list[tuple[int, bytes, int]] = []
        at, size = 0, len(data)
        while size - at >= 2:
            first, second = data[at], data[at + 1]
            opcode, length, start = first & 15, second & 127, at + 2
            if first & 0x70 or 2 < opcode < 8 or opcode > 10 or not second & 0x80:
                raise ProtocolError(1002)
            if opcode >= 8:
                if length > 125 or not first & 0x80:
                    raise ProtocolError(1002)
            elif (opcode == CONTINUATION) != (self._opcode != 0):
                raise ProtocolError(1002)
            if length >= 126:
                start += 2 if length == 126 else 8
                if size < start:
                    break
                if length == 126:
                    (length,) = struct.unpack_from("!H", data, at + 2)
                    shortest = 126
                else:
                    (length,) = struct.unpack_from("!Q", data, at + 2)
                    shortest = 65536
                if length < shortest or length >> 63:
                    raise ProtocolError(1002)
            if opcode < 8 and length > self._max_message - self._gathered:
                raise ProtocolError(1009)
            start += _WITH_KEY
            if size - start < length:
                break
            at = start + length
            payload = mask(data[start:at], data[start - _WITH_KEY : start])
            if opcode >= 8:
                events.append(self._control(opcode, payload))
                continue
            opcode = opcode or self._opcode
            if not first & 0x80 or self._opcode:
                self._fragments.append(payload)
                self._gathered += length
                self._opcode = opcode
                if not first & 0x80:
                    continue
                payload = b"".join(self._fragments)
                self._fragments, self._opcode, self._gathered = [], 0, 0
            if opcode == TEXT:
                self._check_text(payload)
            events.append((opcode, payload, 0))
        self._held = data[at:]
        return events

    def _control(self, opcode: int, payload: bytes) -> tuple[int, bytes, int]:
        if opcode != CLOSE:
            return opcode, payload, 0
        if not payload:
            return CLOSE, b"", 1005
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
            raise ProtocolError(1002)
        self._check_text(payload[2:])
        return CLOSE, payload[2:], code

    def _check_text(self, payload: bytes) -> None:
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise ProtocolError(1007) from None


def encode_frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload
