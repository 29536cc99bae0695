"""A channel's log by itself: what it hands to somebody who was away is what its ring has, frame by frame."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.log import Log
from ext.ring import EPHEMERAL, Evicted, Ring
from ext.wire import JSON, MSGPACK, EntryEncoder, encode_record

SERIES, OTHER = "AAAAAAAA", "BBBBBBBB"
ENTRY = st.tuples(st.integers(1, 1 << 20), st.integers(0, 2), st.booleans(), st.booleans(), st.integers(1, 4))


def record(number: int, count: int) -> bytes:
    messages = msgpack.packb([{"data": f"{number}/{index}"} for index in range(count)])
    return encode_record(f"hZ2kQ9w1Ab:{number}", "hZ2kQ9w1Ab", None, 0, messages)


@given(
    steps=st.lists(ENTRY, max_size=40),
    budget=st.integers(0, 2000),
    skip=st.integers(0, 2),
    back=st.integers(0, 40),
    wire=st.sampled_from([JSON, MSGPACK]),
)
def test_frames_of_a_replay_are_those_of_the_entries_that_the_ring_would_hand_out(steps, budget, skip, back, wire):
    log, encoder, serials = Log("app:room", SERIES, kept=True), EntryEncoder(wire, "room"), [0]
    log.ring = Ring(16, 1 << 20, 0, SERIES)
    for number, (step, origin, ephemeral, own, count) in enumerate(steps):
        serials.append(serials[-1] + step)
        kept = record(number, count)
        entry = kept if own else (serials[-1], OTHER, kept)  # of an earlier life: as the journal had it
        log.ring.append(serials[-1], entry, len(kept), origin, EPHEMERAL if ephemeral else 0)
    cursor = serials[max(0, len(serials) - 1 - back)]
    if cursor < log.ring.evicted:
        with pytest.raises(Evicted):
            log.frames_after(cursor, encoder, budget=budget, skip_origin=skip)
        return
    last, entries = log.ring.read_after(cursor, budget=budget, skip_origin=skip)
    frames = b"".join(encoder.frame(*entry) for entry in entries)  # type: ignore[misc]
    messages = sum(len(msgpack.unpackb(entry[2])[-1]) for entry in entries)  # type: ignore[index]
    assert log.frames_after(cursor, encoder, budget=budget, skip_origin=skip) == (last, frames, messages)
