"""The plain twin of ext.text.serial: format strings, regular expressions, and a clock that knows what it gave out."""

import re

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TEXT = re.compile(r"([0-9]{15})-([0-9]{5})@([A-Za-z0-9]{8})")
MESSAGE_TEXT = re.compile(TEXT.pattern + r":([0-9]{3})")


class PlainSerialClock:
    def __init__(self) -> None:
        self.known = [0]

    def next(self, now_ms: int) -> int:
        serial = max(now_ms * 65536, max(self.known) + 1)
        self.known.append(serial)
        return serial

    def restore(self, serial: int) -> None:
        self.known.append(serial)


def serial_text(serial: int, series: str) -> str:
    return f"{serial >> 16:015d}-{serial & 0xFFFF:05d}@{series}"


def message_serial_text(serial: int, series: str, index: int) -> str:
    return f"{serial_text(serial, series)}:{index:03d}"


def parse_serial(text: str) -> tuple[int, str] | None:
    """None: it is no serial text."""
    match = TEXT.fullmatch(text)
    if match is None:
        return None
    ms, counter = int(match[1]), int(match[2])
    return (ms * 65536 + counter, match[3]) if ms < 2**48 and counter < 65536 else None


def parse_message_serial(text: str) -> tuple[int, str, int] | None:
    match = MESSAGE_TEXT.fullmatch(text)
    entry = parse_serial(text[:30])
    return (*entry, int(match[4])) if match and entry else None


def connection_id(origin: int) -> str:
    return "".join(ALPHABET[origin // 64**place % 64] for place in range(9, -1, -1))
