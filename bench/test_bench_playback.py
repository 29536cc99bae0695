"""A batch of a replay: blocks of the journal to frames."""

import pytest

from engine.journal import block
from ext.disk.playback import Playback
from ext.text.serial import connection_id
from ext.wire.encoder import EntryEncoder, encode_record, record_origin

SERIES, OTHER, COUNT = "series00", 12345, 512
RECORD = encode_record("AbCdEfGhIj:1", connection_id(OTHER), None, 0, b"\x91\x81\xa4data\xd9\x80" + b"x" * 128)


def by_entry(encoder, rows, skip_origin):
    """As it is without this room: an object for each entry, a list to choose from, a frame for each."""
    entries = [
        (stored.serial, stored.series, stored.record)
        for key, value in rows
        for stored in block.decode(key, value)
        if not skip_origin or record_origin(stored.record) != skip_origin
    ]
    return b"".join([encoder.frame(*entry) for entry in entries])


def by_block(encoder, rows, skip_origin):
    batch = Playback(encoder, 0, until=COUNT, budget=1 << 20, skip_origin=skip_origin)
    for key, value in rows:
        batch.take_block(key, value)
    return batch.frames()


@pytest.mark.benchmark(group="playback: 512 entries of 128 B, to JSON frames")
@pytest.mark.parametrize("echo", [True, False], ids=["echo", "no-echo"])
@pytest.mark.parametrize("per_block", [1, 64])
@pytest.mark.parametrize("play", [by_entry, by_block], ids=["baseline", "ext"])
def test_play(benchmark, play, per_block, echo):
    entries = [(serial, serial - 1, RECORD) for serial in range(1, COUNT + 1)]
    rows = [
        row
        for at in range(0, COUNT, per_block)
        for row in block.encode("app:channel-17", SERIES, entries[at : at + per_block], 0)
    ]
    encoder, skip_origin = EntryEncoder(0, "channel-17"), 0 if echo else 99
    assert benchmark(play, encoder, rows, skip_origin) == by_entry(encoder, rows, skip_origin)
