"""What a good engineer would write in plain Python for ext.text.serial: integers, format strings, one pattern."""

import re

_TEXT = re.compile(r"([0-9]{15})-([0-9]{5})@([A-Za-z0-9]{8})", re.ASCII)


class PlainClock:
    __slots__ = ("last",)

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def next(self, now_ms: int) -> int:
        if not 0 <= now_ms < 1 << 48:
            raise ValueError(f"now_ms must have at most 48 bits, got {now_ms}")
        serial = now_ms << 16
        if serial <= self.last:
            serial = self.last + 1
        self.last = serial
        return serial


def serial_text(serial: int, series: str) -> str:
    return f"{serial >> 16:015d}-{serial & 0xFFFF:05d}@{series}"


def message_serial_text(serial: int, series: str, index: int) -> str:
    return f"{serial >> 16:015d}-{serial & 0xFFFF:05d}@{series}:{index:03d}"


def parse_serial(text: str) -> tuple[int, str]:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a serial: {text!r}")
    ms, counter, series = match.groups()
    serial = int(ms) << 16 | int(counter)
    if serial >= 1 << 64 or int(counter) > 0xFFFF:
        raise ValueError(f"not a serial: {text!r}")
    return serial, series
