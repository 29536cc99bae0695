"""The sequencer: one id, one outcome; serials only grow; what is refused leaves no trace."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.channel import Channel
from engine.errors import JournalUnavailable, OutcomeUnknown
from engine.journal.memory import MemoryJournal
from engine.logclock import LogClock
from engine.partition import Partition
from engine.policy import Policy
from engine.sequencer import Asked
from engine.timeline import Timeline
from engine.variant import Variant
from ext.log.author import Author
from ext.log.common import Common
from ext.log.dedup import DedupWindow
from ext.text.serial import SerialClock
from ext.wire.encoder import record_ids
from ext.wire.publish import Publish
from tests.models.sequencer import ModelLog

T0 = 1_700_000_000_000
POLICY = Policy("synced", "w", 120_000, "series00")
DOWN = JournalUnavailable("the disk is on holiday")


class Told:
    """A completion that remembers."""

    def __init__(self):
        self.outcomes = []

    def accepted(self, serial, series, index, count):
        self.outcomes.append(("accepted", serial, index, count))

    def refused(self, error):
        self.outcomes.append(("unknown" if isinstance(error, OutcomeUnknown) else "refused", error.code))


def log_clock():
    return LogClock(Timeline(), SerialClock(), step_ms=1_000)


def partition(max_remembered=1 << 20, *, kept=True):
    return Partition(MemoryJournal(), log_clock(), Common(max_remembered), kept=kept)


def awake(name="room", policy=POLICY, within=None):
    channel = Channel("app", name, policy, within or partition())
    channel.wake(DedupWindow(bytes(16)), [], last_stored=0, evicted=0, position=0, bounds=(1 << 10, 1 << 20))
    return channel


def publish(*ids, count=None, ephemeral=False):
    count = len(ids) or count or 1
    messages = [{"id": ids[n], "data": "x"} if ids else {"data": "x"} for n in range(count)]
    return Publish("room", 0, count, count, tuple(ids) or None, None, msgpack.packb(messages), ephemeral=ephemeral)


def stage(sequencer, channel, what, base="AAAAAAAAAB:0", now=T0):
    told = Told()
    sequencer.common.now_ms = now
    sequencer.common.steady_ms = max(sequencer.common.steady_ms, now)
    sequencer.decide(Asked(channel, what, base, Author(base[:10], None), told))
    return told


IDS = st.sampled_from("abcdef")


@given(data=st.data())
def test_each_id_has_one_outcome_whatever_fails_and_repeats(data):
    """Invariants 1 and 3, against the model: batches commit or fail, ids repeat before, during and after."""
    sequencer, channels = partition(1 << 20).sequencer, [awake("one"), awake("two")]
    models = {channel: ModelLog() for channel in channels}
    told = {channel: [] for channel in channels}  # (ids, what the model said, completion)
    batch, now, last = None, T0, 0
    for _ in range(data.draw(st.integers(0, 40))):
        now += data.draw(st.integers(-5000, 5))  # the wall clock steps back as it likes
        step = data.draw(st.integers(0, 5))
        channel = data.draw(st.sampled_from(channels))
        if step <= 2:
            base = data.draw(IDS)
            count = data.draw(st.integers(1, 3))
            ids = (base,) if count == 1 else tuple(f"{base}:{n}" for n in range(count))
            said = models[channel].stage(ids)
            told[channel].append((ids, said, stage(sequencer, channel, publish(*ids), now=now)))
            if said in ("repeat", "refused"):
                assert len(told[channel][-1][2].outcomes) == 1
        elif step == 3 and batch is None:
            batch = sequencer.take()
            for block in batch.blocks if batch else ():
                held = next(c for c in channels if c.key == block.channel)
                previous = held.last_stored
                for serial, before, _ in block.entries:
                    assert before == previous and serial > max(previous, last)
                    previous = serial
        elif batch is not None:
            for held, group in batch.groups:
                ids = [tuple(record_ids(entry.record)) for entry in group]
                (models[held].commit if step == 4 else models[held].undo)(ids)
                last = max(last, *(entry.serial for entry in group)) if step == 4 else last
            sequencer.commit(batch) if step == 4 else sequencer.undo(batch, DOWN)
            batch = None
    for channel in channels:
        visible = [entry[0] for entry in channel.ring.read_after(0, budget=1 << 30)[1]]
        assert visible == sorted(visible) and len(visible) == len(models[channel].stored)
        stored = {i: serial for serial, ids in zip(visible, models[channel].stored, strict=True) for i in ids}
        for ids, said, completion in told[channel]:
            assert len(completion.outcomes) <= 1
            for outcome in completion.outcomes:
                if said == "refused":
                    assert outcome == ("refused", 40031)
                elif outcome[0] == "accepted":
                    assert outcome[1] in visible
                    if ids[0] in stored and said == "repeat":
                        assert outcome[1] == stored[ids[0]]
                else:
                    assert outcome[1] == DOWN.code
        assert channel.staged == len(models[channel].under_way)
    if batch is None and not len(sequencer):
        assert sequencer.common.pending_bytes == 0
        assert sequencer.common.remembered == sum(len(channel.dedup) for channel in channels)


def test_nothing_is_visible_before_it_is_durable():
    sequencer, channel = partition(100).sequencer, awake()
    told = stage(sequencer, channel, publish())
    batch = sequencer.take()
    assert len(channel.ring) == 0 and told.outcomes == []
    sequencer.commit(batch)
    assert len(channel.ring) == 1 and told.outcomes == [("accepted", T0 << 16, 0, 1)]


def test_repeat_during_the_first_write_shares_its_outcome():
    sequencer, channel = partition(100).sequencer, awake()
    first = stage(sequencer, channel, publish("x"))
    batch = sequencer.take()
    second = stage(sequencer, channel, publish("x"))
    assert sequencer.take() is None and second.outcomes == []
    sequencer.commit(batch)
    assert first.outcomes == second.outcomes == [("accepted", T0 << 16, 0, 1)]


def test_a_retry_of_what_could_not_be_written_is_a_first_try():
    sequencer, channel = partition(100).sequencer, awake()
    first, follower = stage(sequencer, channel, publish("x")), stage(sequencer, channel, publish("x"))
    sequencer.undo(sequencer.take(), DOWN)
    assert first.outcomes == follower.outcomes == [("refused", DOWN.code)]
    retry = stage(sequencer, channel, publish("x"))
    sequencer.commit(sequencer.take())
    assert [outcome[0] for outcome in retry.outcomes] == ["accepted"]
    assert len(channel.ring) == 1


def test_same_msgserial_of_a_connection_is_a_repeat():
    sequencer, channel = partition(100).sequencer, awake()
    one = stage(sequencer, channel, publish(count=2), base="AAAAAAAAAB:7")
    sequencer.commit(sequencer.take())
    again = stage(sequencer, channel, publish(count=2), base="AAAAAAAAAB:7")
    other = stage(sequencer, channel, publish(count=2), base="AAAAAAAAAB:8")
    assert again.outcomes == one.outcomes
    assert other.outcomes == []


def test_an_ephemeral_entry_is_delivered_and_not_stored():
    sequencer, channel = partition(100).sequencer, awake()
    stage(sequencer, channel, publish(count=1), base="AAAAAAAAAB:0")
    told = stage(sequencer, channel, publish(count=1, ephemeral=True), base="AAAAAAAAAB:1")
    stage(sequencer, channel, publish(count=1), base="AAAAAAAAAB:2")
    stream = channel.stream(Variant(0, "room"))
    batch = sequencer.take()
    [block] = batch.blocks
    assert [previous for _, previous, _ in block.entries] == [0, block.entries[0][0]]
    sequencer.commit(batch)
    assert len(told.outcomes) == 1
    assert len(stream.read(0, budget=1 << 20)[1]) == 3
    assert len(channel.ring.read_after(0, budget=1 << 20)[1]) == 2


def test_ids_beyond_the_bound_are_refused_until_some_expire():
    sequencer, channel = partition(3).sequencer, awake()
    stage(sequencer, channel, publish(count=3), base="AAAAAAAAAB:0")
    sequencer.commit(sequencer.take())
    assert stage(sequencer, channel, publish(), base="AAAAAAAAAB:1").outcomes == [("refused", 42910)]
    sequencer.common.remembered -= channel.forget(T0 + 400_000, (T0 + 280_000) << 16, 120_000)
    assert stage(sequencer, channel, publish(), base="AAAAAAAAAB:1", now=T0 + 400_000).outcomes == []


@pytest.mark.parametrize("used", ["x:0", "x:1", "x:2"])
def test_publish_that_shares_some_ids_is_refused_whole(used):
    sequencer, channel = partition(100).sequencer, awake()
    stage(sequencer, channel, publish(used))
    sequencer.commit(sequencer.take())
    assert stage(sequencer, channel, publish("x:0", "x:1", "x:2")).outcomes == [("refused", 40031)]
    assert [channel.dedup.find(f"x:{n}") is not None for n in range(3)] == [used == f"x:{n}" for n in range(3)]


@pytest.mark.parametrize("ids", [("x:0", "x:0"), ("a:0", "x:1"), ("a", "b"), ("a:1", "a:2")])
def test_several_ids_without_one_base_are_never_staged(ids):
    """Whoever reads messages has refused them; here they would be taken for others."""
    sequencer, channel = partition(100).sequencer, awake()
    with pytest.raises(ValueError, match="one base"):
        stage(sequencer, channel, publish(*ids))
    assert not len(sequencer) and not len(channel.dedup)


def test_staged_entry_is_found_by_serial_until_it_is_settled():
    sequencer, channel = partition(1 << 20).sequencer, awake()
    serials = []
    for n in range(100):
        stage(sequencer, channel, publish(f"id{n}"))
        serials.append(sequencer.clock.last)
        if n == 36:
            batch = sequencer.take()
    assert [channel.staged_entry(serial).serial for serial in serials] == serials
    assert channel.staged_entry(serials[0] - 1) is channel.staged_entry(serials[-1] + 1) is None
    sequencer.commit(batch)
    assert [channel.staged_entry(serial) is None for serial in serials] == [True] * 37 + [False] * 63
