"""A block: the entries that one append adds to one channel, as a key and a value. ``ext.disk.block`` writes the bytes.

channel key, NUL, first serial  ->  entries       damage is reported with the name of the channel"""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import JournalCorrupted
from engine.journal.port import Stored
from ext.disk import block

SERIAL_BYTES = 8


def channel_prefix(channel: str) -> bytes:
    """The prefix of exactly this channel's keys.

    Raises: ValueError, if the channel key contains NUL or is not UTF-8.
    """
    encoded = channel.encode("utf-8")
    if b"\0" in encoded:
        raise ValueError("a channel key cannot have a NUL in it")
    return encoded + b"\0"


def block_key(prefix: bytes, serial: int) -> bytes:
    return prefix + serial.to_bytes(SERIAL_BYTES, "big")


def encode(
    channel: str, series: str, entries: Sequence[tuple[int, int, bytes]], before: int
) -> list[tuple[bytes, bytes]]:
    """Keys and values of the entries: one block, unless there are more than a block may hold.

    Raises: ValueError, for an unstorable block: serials must ascend from above ``before``.
    """
    try:
        return block.encode(channel.encode("utf-8"), series.encode("ascii"), entries, before)
    except ValueError as error:
        raise ValueError(f"{channel}: {error}") from error


def decode(key: bytes, value: bytes) -> list[Stored]:
    """The entries of a block, ascending.

    Raises: JournalCorrupted, if any bit of key or value has changed.
    """
    try:
        return block.decode(key, value, Stored)
    except ValueError as error:
        raise damaged(key, error) from error


def damaged(key: bytes, error: ValueError) -> JournalCorrupted:
    """The error for a damaged block with this key."""
    channel = key[: -SERIAL_BYTES - 1].decode("utf-8", "backslashreplace")  # the key may be damaged
    return JournalCorrupted(channel, str(error))
