"""Publishes that wait until it is known whether they are repeats: in their order, and nobody else for them."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.channel import Channel
from engine.errors import JournalUnavailable
from engine.holding import Holding
from engine.journal.port import Stored
from engine.repeats import repeats
from engine.sequencer import Asked
from ext.log.author import Author
from ext.log.dedup import DedupWindow
from ext.wire.encoder import encode_record
from ext.wire.publish import Publish
from tests.test_sequencer import POLICY, T0, Told, awake, partition

DOWN = JournalUnavailable("the disk is on holiday")


def asked(channel: Channel, number: int, *, who: str = "AAAAAAAAAB", data: str = "x", inherited: bool = False) -> Asked:
    messages = msgpack.packb([{"data": data}])
    publish = Publish("room", number, 1, 1, None, None, messages)
    return Asked(channel, publish, f"{who}:{number}", Author(who, None, inherited=inherited), Told())


class World:
    """A sequencer, a channel, and a journal that is a dict."""

    def __init__(self, channel: Channel | None = None) -> None:
        self.channel = channel or awake()
        self.sequencer = self.channel.partition.sequencer
        self.sequencer.common.now_ms = self.sequencer.common.steady_ms = T0
        self.holding = Holding(self.sequencer.common)
        self.journal: dict[int, Stored] = {}

    def stage(self, what: Asked) -> Told:
        self.holding.stage(what)
        assert isinstance(what.completion, Told)
        return what.completion

    def commit(self) -> None:
        batch = self.sequencer.take()
        if batch is not None:
            for block in batch.blocks:
                for serial, previous, record in block.entries:
                    self.journal[serial] = Stored(serial, previous, block.series, record)
            self.sequencer.commit(batch)

    def look_up(self, most: int = 1 << 30, near: int = 1) -> None:
        """Serve a lookup, of so many entries."""
        waiting = self.holding.lookups.popleft()
        after = sorted(serial for serial in self.journal if serial >= waiting.serial)
        self.holding.found([waiting], [[self.journal[serial] for serial in after[:near]]])
        while self.holding.go_on(most):
            pass

    def forget(self) -> None:
        """The ring lets go of all."""
        self.channel.ring.trim(1 << 63)


@given(
    numbers=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 7), st.sampled_from("xxy")), max_size=25),
    near=st.integers(1, 9),
    most=st.integers(1, 5),
    data=st.data(),
)
def test_each_is_answered_once_in_order_as_without_waiting(
    numbers: list[tuple[str, int, str]], near: int, most: int, data: st.DataObject
) -> None:
    world, told, first = World(), [], {}
    for number in range(4):
        first["a", number] = world.stage(asked(world.channel, number, who="a" * 10))
    world.commit()
    for who, number, content in numbers:
        if data.draw(st.booleans()):
            world.forget()
        told.append((who, number, content, world.stage(asked(world.channel, number, who=who * 10, data=content))))
        step = data.draw(st.integers(0, 4))
        if step == 0 and world.holding.lookups:
            world.look_up(most, near)
        elif step == 1:
            world.commit()
    while world.holding.lookups:
        world.look_up(most, near)
    world.commit()
    used = {key: ("x", one.outcomes[0]) for key, one in first.items()}
    newest: dict[str, int] = {}
    for who, number, content, one in told:
        (outcome,) = one.outcomes
        if (who, number) not in used:
            used[who, number] = content, outcome
            assert outcome[0] == "accepted"
            assert outcome[1] > newest.get(who, 0), "what a connection publishes keeps its order"
            newest[who] = outcome[1]
        elif used[who, number][0] == content:
            assert outcome == used[who, number][1]
        else:
            assert outcome == ("refused", 40031)
    assert world.sequencer.common.pending_bytes == 0 and world.channel.held is None


def test_id_past_the_window_is_new_and_nothing_overtakes_it() -> None:
    """The journal has let go of the first, the id is still there: a bucket is let go of as a whole."""
    world = World()
    world.stage(asked(world.channel, 0))
    world.commit()
    world.forget()
    world.journal.clear()
    again, behind = world.stage(asked(world.channel, 0)), world.stage(asked(world.channel, 1))
    assert not again.outcomes and len(world.sequencer) == 0, "what is behind it waits"
    world.look_up()
    world.commit()
    assert [one.outcomes[0][0] for one in (again, behind)] == ["accepted"] * 2
    assert again.outcomes[0][1] < behind.outcomes[0][1]
    assert world.sequencer.common.remembered == len(world.channel.dedup) == 2


def test_failed_lookup_is_told_and_the_next_proceeds() -> None:
    world = World()
    first = world.stage(asked(world.channel, 0))
    world.commit()
    world.forget()
    again, behind = world.stage(asked(world.channel, 0)), world.stage(asked(world.channel, 1))
    world.holding.found([world.holding.lookups.popleft()], [DOWN])
    assert not world.holding.go_on(100)
    world.commit()
    assert again.outcomes == [("refused", DOWN.code)]
    assert behind.outcomes[0][0] == "accepted"
    retry = world.stage(asked(world.channel, 0))
    world.look_up()
    assert retry.outcomes == first.outcomes


def test_only_what_may_be_of_an_earlier_life_waits_for_its_ids() -> None:
    channel = Channel("app", "room", POLICY, partition())
    earlier = DedupWindow(bytes(16))
    channel.wake(
        DedupWindow(bytes(16)),
        [],
        last_stored=0,
        evicted=0,
        position=0,
        bounds=(8, 1 << 20),
        earlier=DedupWindow(bytes(16)),
    )
    world = World(channel)
    fresh = world.stage(asked(channel, 0))
    old = world.stage(asked(channel, 0, who="BBBBBBBBBB", inherited=True))
    behind = world.stage(asked(channel, 1, who="BBBBBBBBBB", inherited=True))
    world.commit()
    assert fresh.outcomes and not old.outcomes and not behind.outcomes
    assert world.holding.next_recall() is channel
    serial = T0 << 8
    earlier.add("BBBBBBBBBB:0:0", serial, 0, T0)
    world.journal[serial] = Stored(
        serial, 0, "series99", encode_record("BBBBBBBBBB:0", "BBBBBBBBBB", None, 0, msgpack.packb([{"data": "x"}]))
    )
    channel.earlier, channel.recalled = earlier, True
    world.holding.recalled(channel)
    assert world.holding.next_recall() is None
    assert not world.holding.go_on(100)
    world.look_up()
    world.commit()
    assert old.outcomes == [("accepted", serial, 0, 1)]
    assert behind.outcomes[0][0] == "accepted"


# ---- the same again?


def stored(*messages: dict[str, object], client: str | None = None, flags: int = 0, base: str = "a") -> bytes:
    return encode_record(base, None, client, flags, msgpack.packb(list(messages)))


@pytest.mark.parametrize(
    ("first", "index", "again", "same"),
    [
        (stored({"data": "x"}), 0, stored({"data": "x"}, base="b"), True),
        (stored({"id": "i", "data": "x"}), 0, stored({"data": "x"}), True),
        (stored({"data": "x"}, {"data": "y"}), 0, stored({"data": "x"}), False),
        (stored({"data": "x"}, {"data": "y"}), 1, stored({"data": "y"}), False),
        (stored({"data": "x"}, {"data": "y"}), 1, stored({"id": "a:1", "data": "y"}), True),
        (stored({"data": "x"}, {"data": "y"}), 0, stored({"id": "a:0", "data": "x"}), True),
        (stored({"data": "x"}, client="me"), 0, stored({"data": "x", "clientId": "me"}), True),
        (stored({"data": "x"}, client="me"), 0, stored({"data": "x"}), False),
        (stored({"data": "x"}, client="me"), 0, stored({"data": "x", "clientId": "you"}, client="me"), False),
        (stored({"data": "x"}), 0, stored({"data": b"x"}), False),
        (stored({"data": "x"}), 0, stored({}), False),
        (stored({"data": ""}), 0, stored({}), False),
        (stored({"data": "x"}, flags=1), 0, stored({"data": "x"}), False),
        (stored({"extras": {"a": 1, "b": [1.5, None]}}), 0, stored({"extras": {"b": [1.5, None], "a": 1}}), True),
        (stored({"extras": {"a": 1}}), 0, stored({"extras": {"a": 1.0}}), True),
        (stored({"extras": {"a": 1}}), 0, stored({"extras": {"a": True}}), False),
        (stored({"extras": {"a": 0}}), 0, stored({"extras": {"a": None}}), False),
        (stored({"extras": {"a": [1, 2]}}), 0, stored({"extras": {"a": [1]}}), False),
        (stored({"extras": {"a": 1}}), 0, stored({"extras": {"a": 1, "b": 2}}), False),
        (stored({"name": "n"}), 0, stored({"name": "n", "encoding": "e"}), False),
    ],
)
def test_a_repeat_is_what_readers_would_get_again(first: bytes, index: int, again: bytes, same: bool) -> None:
    assert repeats(first, index, again) is same
