"""Who shares a stream of frames, and how many there may be: a variant is its key."""

from __future__ import annotations

import pytest

from engine import limits
from engine.variant import Variant
from ext.wire.encoder import JSON, MSGPACK
from tests.test_plane import FarEnd, closed_peers, make, plane  # noqa: F401  # fixtures
from tests.test_sequencer import awake

OWN = Variant(JSON, "room")
OTHERS = [Variant(MSGPACK, "room"), Variant(JSON, "[?rewind=1]room")]


def test_an_equal_variant_is_the_same_stream():
    channel = awake()
    assert channel.stream(OWN) is channel.stream(Variant(JSON, "room"))
    assert channel.stream(OWN).encoder.format == JSON


@pytest.mark.parametrize("other", OTHERS, ids=["format", "name"])
def test_a_variant_that_differs_is_another_stream(other):
    channel = awake()
    assert channel.stream(other) is not channel.stream(OWN)


def test_a_variant_does_not_change():
    with pytest.raises(AttributeError):
        OWN.format = MSGPACK


def test_streams_without_readers_make_room_for_others(plane, monkeypatch):  # noqa: F811
    monkeypatch.setattr(limits, "STREAMS_PER_CHANNEL", 2)
    channel, peer = awake(), FarEnd(plane, "me")
    followed = channel.stream(OTHERS[1])
    reader = peer.handle.subscribe(followed, followed.head)
    unread = channel.stream(Variant(JSON, "[?rewind=2]room"))
    third = Variant(JSON, "[?rewind=3]room")
    assert channel.has_stream_for(third)
    assert channel.ring.streams == [followed]

    unread = channel.stream(Variant(JSON, "[?rewind=2]room"))
    second = peer.handle.subscribe(unread, unread.head)
    assert not channel.has_stream_for(third)
    assert channel.has_stream_for(OTHERS[1]), "there is one"
    assert channel.has_stream_for(OWN), "the channel's own name always has one"
    second.stop()
    assert channel.has_stream_for(third)
    reader.stop()
