"""The plain twin of a block: its bytes, number by number, and its sum by zlib."""

from __future__ import annotations

from zlib import crc32

Entry = tuple[int, int, bytes]


def encode(channel: bytes, series: bytes, entries: list[Entry]) -> tuple[bytes, bytes]:
    key = channel + b"\0" + entries[0][0].to_bytes(8, "big")
    body = series + len(entries).to_bytes(4, "big")
    body += b"".join(serial.to_bytes(8, "big") for serial, _, _ in entries)
    body += b"".join(previous.to_bytes(8, "big") for _, previous, _ in entries)
    body += b"".join(len(record).to_bytes(4, "big") for _, _, record in entries)
    body += b"".join(record for _, _, record in entries)
    return key, b"\1" + crc32(body, crc32(key, 1)).to_bytes(4, "big") + body


def split(entries: list[Entry], most_entries: int, most_bytes: int) -> list[list[Entry]]:
    parts: list[list[Entry]] = [[]]
    for entry in entries:
        size = sum(len(record) for _, _, record in parts[-1]) + len(entry[2])
        if parts[-1] and (len(parts[-1]) == most_entries or size > most_bytes):
            parts.append([])
        parts[-1].append(entry)
    return parts
