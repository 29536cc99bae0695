"""What ext.net.shaper promises: what is delivered is charged to all rates, once."""

from __future__ import annotations

import pytest

from ext.log.rate import Rate
from ext.log.ring import Ring
from ext.log.stream import Stream
from ext.net.shaper import Shaper
from ext.wire.encoder import JSON, EntryEncoder, encode_record

NOW = 1_700_000_000_000
SERIES = "series01"
FOUR = b"\x94" + b"\x81\xa4data\xa1x" * 4
ONE = b"\x91\x81\xa4data\xa1y"


def stream_of(*entries: tuple[bytes, int]) -> tuple[Stream, list[int]]:
    """A stream with these entries (messages, origin), and the place of each, and of the head."""
    ring = Ring(8, 1 << 20)
    encoder = EntryEncoder(JSON, "room")
    stream = Stream(ring, encoder)
    places = [0]
    for number, (messages, origin) in enumerate(entries, 1):
        record = encode_record("id", None, None, 0, messages)
        entry = (number, SERIES, record)
        ring.append(number, entry, len(record), origin)
        stream.append(encoder.frame(*entry))
        places.append(stream.head)
    return stream, places


def used(rate: Rate) -> float:
    """What has been taken of it: so long it would take to refill, at a rate of one (message, or byte) a second."""
    return rate.wait_ms(NOW) / 1000


def test_it_is_open_while_every_rate_has_room() -> None:
    rates = [Rate(1, 0), Rate(2, 0), Rate(3, 0)]
    shaper = Shaper(*rates)
    assert shaper.open(NOW)
    rates[1].take(NOW, 2, 0)
    assert not shaper.open(NOW)
    assert shaper.wait_ms(NOW) == rates[1].wait_ms(NOW) > 0
    assert shaper.open(NOW + shaper.wait_ms(NOW))
    rates[1].limit(0, 0)
    assert shaper.open(NOW)
    assert shaper.wait_ms(NOW) == 0


def test_what_is_taken_is_taken_of_all() -> None:
    rates = [Rate(10, 0), Rate(0, 100)]
    Shaper(*rates).take(NOW, 20, 300)
    assert [rate.wait_ms(NOW) for rate in rates] == [1001, 2001]


def test_frames_are_charged_by_their_messages_and_their_bytes() -> None:
    stream, places = stream_of((FOUR, 0), (ONE, 0), (ONE, 7))
    for begin, end, messages in ((0, 1, 4), (0, 3, 6), (1, 3, 2), (2, 2, 0)):
        count, size = Rate(1, 0), Rate(0, 1)
        Shaper(count, size).take_frames(NOW, stream, places[begin], places[end], 0)
        assert used(count) == pytest.approx(max(0, messages - 1), abs=0.01)
        assert used(size) == pytest.approx(max(0, places[end] - places[begin] - 1), abs=0.01)


def test_own_messages_that_are_not_sent_are_not_charged() -> None:
    stream, places = stream_of((ONE, 7), (FOUR, 9), (ONE, 7))
    count, size = Rate(1, 0), Rate(0, 1)
    Shaper(count, size).take_frames(NOW, stream, places[0], places[3], 7)
    assert used(count) == pytest.approx(3, abs=0.01)
    assert used(size) == pytest.approx(places[2] - places[1] - 1, abs=0.01)
