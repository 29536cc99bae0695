"""A WebSocket decoder that is plainly right and slow: it keeps every byte, and reads them all again each time.

RFC 6455 read aloud, in the order of its sections; UTF-8 is Python's own codec. Nothing of ext.wire.frame is used."""

from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, ERROR = 0, 1, 2, 8, 9, 10, -1
OPCODES = (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)


class Event(NamedTuple):
    kind: int
    payload: bytes
    code: int = 0


class ProtocolError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class IncompleteError(Exception):
    """The bytes end within a frame."""


def mask(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def frame(opcode: int, payload: bytes, *, key: bytes | None = b"\x37\xfa\x21\x3d", fin: bool = True) -> bytes:
    """One frame, masked unless ``key`` is None."""
    head = bytes([fin << 7 | opcode])
    bit = 0 if key is None else 0x80
    if len(payload) <= 125:
        head += bytes([bit | len(payload)])
    elif len(payload) <= 65535:
        head += bytes([bit | 126]) + len(payload).to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + len(payload).to_bytes(8, "big")
    return head + payload if key is None else head + key + mask(payload, key)


def is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def may_be_sent(code: int) -> bool:
    """Section 7.4: the registered ones without those that are never on the wire, libraries' and private ones."""
    return code in {1000, 1001, 1002, 1003, *range(1007, 1015)} or 3000 <= code <= 4999


class PlainDecoder:
    def __init__(self, max_message: int, *, client_side: bool = False) -> None:
        self.max_message = max_message
        self.client_side = client_side
        self._bytes = b""
        self._told = 0

    def receive(self, data: bytes) -> list[Event]:
        self._bytes += data
        events = self.everything(self._bytes)
        new = events[self._told :]
        self._told = len(events)
        return new

    def everything(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        fragments: list[bytes] = []
        opened = 0
        try:
            while not (events and events[-1].kind == CLOSE):
                fin, opcode, payload, data = self._frame(data, opened, sum(map(len, fragments)))
                if opcode in (PING, PONG):
                    events.append(Event(opcode, payload))
                elif opcode == CLOSE:
                    events.append(self._close(payload))
                else:
                    opened = opened or opcode
                    fragments.append(payload)
                    if fin:
                        message = b"".join(fragments)
                        if opened == TEXT and not is_text(message):
                            raise ProtocolError(1007)
                        events.append(Event(opened, message))
                        opened, fragments = 0, []
        except IncompleteError:
            pass
        except ProtocolError as error:
            events.append(Event(ERROR, b"", error.code))
        return events

    def _frame(self, data: bytes, opened: int, gathered: int) -> tuple[bool, int, bytes, bytes]:
        first, second, rest = *self._take(data, 2)[0], data[2:]
        fin, opcode, masked, length = bool(first & 0x80), first & 0x0F, bool(second & 0x80), second & 0x7F
        if first & 0x70 or opcode not in OPCODES:
            raise ProtocolError(1002)
        if opcode in (CLOSE, PING, PONG) and (not fin or length > 125):
            raise ProtocolError(1002)
        if (opcode == CONTINUATION and not opened) or (opcode in (TEXT, BINARY) and opened):
            raise ProtocolError(1002)
        if masked == self.client_side:
            raise ProtocolError(1002)
        if length >= 126:
            width, least = (2, 126) if length == 126 else (8, 65536)
            number, rest = self._take(rest, width)
            length = int.from_bytes(number, "big")
            if length < least or length >= 1 << 63:
                raise ProtocolError(1002)
        if opcode in (CONTINUATION, TEXT, BINARY) and gathered + length > self.max_message:
            raise ProtocolError(1009)
        key = b""
        if masked:
            key, rest = self._take(rest, 4)
        payload, rest = self._take(rest, length)
        return fin, opcode, mask(payload, key) if masked else payload, rest

    def _take(self, data: bytes, size: int) -> tuple[bytes, bytes]:
        if len(data) < size:
            raise IncompleteError
        return data[:size], data[size:]

    def _close(self, payload: bytes) -> Event:
        if not payload:
            return Event(CLOSE, b"", 1005)
        if len(payload) == 1:
            raise ProtocolError(1002)
        code, reason = int.from_bytes(payload[:2], "big"), payload[2:]
        if not may_be_sent(code):
            raise ProtocolError(1002)
        if not is_text(reason):
            raise ProtocolError(1007)
        return Event(CLOSE, reason, code)
