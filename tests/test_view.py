"""A channel's log as readers know it: what it hands to somebody who was away, and that a mirror hands out the same."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.journal.port import Block
from ext.log.common import Common
from ext.log.home import Home
from ext.log.ring import EPHEMERAL, Evicted, Ring
from ext.log.sequence import Sequence
from ext.log.stream import Stream
from ext.log.view import View
from ext.text.serial import SerialClock
from ext.wire.encoder import JSON, MSGPACK, EntryEncoder, encode_record
from tests.staged import stage_at

SERIES, OTHER = "AAAAAAAA", "BBBBBBBB"
STEP = st.one_of(st.just(1), st.integers(1, 1 << 20))
ENTRY = st.tuples(STEP, st.integers(0, 2), st.booleans(), st.booleans(), st.integers(1, 4))


class Told:
    def accepted(self, serial, series, index, count):
        pass


def record(number: int, count: int) -> bytes:
    messages = msgpack.packb([{"data": f"{number}/{index}"} for index in range(count)])
    return encode_record(f"hZ2kQ9w1Ab:{number}", "hZ2kQ9w1Ab", None, 0, messages)


@given(
    steps=st.lists(ENTRY, max_size=40),
    budget=st.integers(0, 2000),
    skip=st.integers(0, 2),
    back=st.integers(0, 40),
    wire=st.sampled_from([JSON, MSGPACK]),
    omit=st.integers(0, 3),
)
def test_replay_frames_equal_those_of_the_ring_s_entries(steps, budget, skip, back, wire, omit):
    """All of them, but for the first messages of the one right after the cursor, if a rewind begins inside it."""
    view, encoder, serials = View("app:room", SERIES), EntryEncoder(wire, "room"), [0]
    view.ring = Ring(16, 1 << 20, 0, SERIES)
    for number, (step, origin, ephemeral, own, count) in enumerate(steps):
        serials.append(serials[-1] + step)
        kept = record(number, count)
        entry = kept if own else (serials[-1], OTHER, kept)  # of an earlier life: as the journal had it
        view.ring.append(serials[-1], entry, len(kept), origin, EPHEMERAL if ephemeral else 0)
    at = max(0, len(serials) - 1 - back)
    cursor = serials[at]
    if cursor < view.ring.evicted:
        with pytest.raises(Evicted):
            view.frames_after(cursor, encoder, budget=budget, skip_origin=skip)
        return
    last, entries = view.ring.read_after(cursor, budget=budget, skip_origin=skip)
    if omit:  # only in an entry that has more messages
        omit = min(omit, steps[at][-1] - 1) if at < len(steps) else 0
    skipped = {entry[0]: omit for entry in entries if omit and entry[0] == cursor + 1}  # type: ignore[index]
    frames = b"".join(encoder.frame(*entry, first=skipped.get(entry[0], 0)) for entry in entries)  # type: ignore[misc,index]
    messages = sum(len(msgpack.unpackb(entry[2])[-1]) for entry in entries) - sum(skipped.values())  # type: ignore[index]
    got = view.frames_after(cursor, encoder, budget=budget, skip_origin=skip, omit=omit)
    assert got == (last, frames, messages)


@given(
    steps=st.lists(
        st.lists(st.tuples(st.integers(1, 1 << 20), st.integers(0, 2), st.booleans()), min_size=1), max_size=8
    )
)
def test_a_mirror_has_the_frames_and_the_head_of_its_home(steps):
    """It is fed what the home reveals, in other portions than the home had; and it numbers and remembers nothing."""
    home, mirror = Home("app:room", SERIES, kept=True), View("app:room", SERIES)
    streams = []
    for view in (home, mirror):
        view.ring = Ring(16, 1 << 20, 0, SERIES)
        streams.append([Stream(view.ring, EntryEncoder(wire, "room")) for wire in (JSON, MSGPACK)])
    sequence, serial, everything = Sequence(SerialClock(), Common(1 << 20)), 0, []
    for batch in steps:
        for step, origin, ephemeral in batch:
            serial += step
            flags = EPHEMERAL if ephemeral else 0
            stage_at(sequence, home, serial, record(serial, 1), Told(), origin=origin, flags=flags)
        groups, _, _ = sequence.take_pending(Block)
        assert sequence.reveal(groups) == streams[0]
        assert home.first_under_way, "until it is settled"
        sequence.settle(groups)
        assert not home.staged
        everything += groups[0][1]
    for at in range(0, len(everything), 3):
        assert mirror.reveal(everything[at : at + 3]) == streams[1]
    assert mirror.head == home.head == serial
    for ours, theirs in zip(*streams, strict=True):
        assert (ours.first, ours.head) == (theirs.first, theirs.head)
        assert ours.read(ours.tail, budget=1 << 30) == theirs.read(theirs.tail, budget=1 << 30)
