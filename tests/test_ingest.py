"""The short way of a publish does exactly what the long way does, or leaves it to that."""

from __future__ import annotations

import json
import subprocess
import sys

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import JournalUnavailable
from engine.sequencer import Asked
from ext.log.author import Author
from ext.log.rate import Rate
from ext.log.terms import Terms
from ext.net.ingest import Ingest
from ext.wire.acks import AckQueue
from ext.wire.publish import parse_publish
from tests.test_sequencer import T0, awake, partition

CONNECTION = "AAAAAAAAAB"
DOWN = JournalUnavailable("the disk is on holiday")
TERMS = Terms(None, Rate(0, 0), Rate(0, 0), max_bytes=1000, max_messages=3)


class Publisher:
    """One client's publishes on two channels, in the short way where it is open, or never."""

    def __init__(
        self,
        short: bool,
        client_id: str | None = None,
        *,
        max_remembered: int = 1 << 20,
        max_messages: int = 3,
        max_unanswered: int = 1 << 20,
        max_staged: int = 1 << 20,
    ) -> None:
        within = partition(max_remembered)
        self.sequencer, self.common = within.sequencer, within.sequencer.common
        self.common.now_ms = self.common.steady_ms = T0
        self.channels = {name: awake(name, within=within) for name in ("one", "zwei ✓")}
        self.touched: list[AckQueue] = []
        self.acks = AckQueue(0, self.touched)
        self.acks.max_bytes, self.common.max_staged = max_unanswered, max_staged
        self.author = Author(CONNECTION, client_id)
        self.short = 0
        self.ingest = None
        if short:
            terms = Terms(None, Rate(0, 0), Rate(0, 0), max_bytes=1000, max_messages=max_messages)
            self.ingest = Ingest(self.common, self.acks, self.author, terms)
            for name, channel in self.channels.items():
                self.ingest.grant(name, channel)
        self.answers: list[object] = []

    def send(self, payload: bytes, binary: bool) -> None:
        if self.ingest is not None and self.ingest.offer(payload, binary):
            self.short += 1
            return
        found = parse_publish(payload, int(binary))
        assert found is not None
        receipt = self.acks.expect(found.msg_serial, len(found.messages))
        base = f"{CONNECTION}:{found.msg_serial}"
        channel = self.channels[found.channel]
        self.sequencer.decide(Asked(channel, found, base, self.author, receipt))

    def settle(self, kept: bool) -> None:
        batch = self.sequencer.take()
        if batch is not None:
            self.sequencer.commit(batch) if kept else self.sequencer.undo(batch, DOWN)
        self.touched.clear()
        for answer in self.acks.take():
            self.answers.append(json.loads(answer) if isinstance(answer, bytes) else answer)

    def log(self, name: str) -> list[tuple[int, str, bytes]]:
        return self.channels[name].ring.read_after(0, budget=1 << 30)[1]

    def told(self) -> list[object]:
        """The answers, with each serial as the place of its message among those that are visible."""
        places = {}
        for name in self.channels:
            for n, (serial, series, _) in enumerate(self.log(name)):
                places[f"{serial >> 16:015d}-{serial & 65535:05d}@{series}"] = (name, n)
        said = []
        for answer in self.answers:
            if isinstance(answer, dict):
                for n, one in enumerate(answer["res"]):
                    where = [(places[text[:30]], text[31:]) for text in one["serials"]]
                    said.append((answer["msgSerial"] + n, where))
            else:
                said.append((answer[0], type(answer[1]).__name__, answer[1].code))
        return said


def protocol_message(channel, serial, messages, binary):
    message = {"action": 15, "channel": channel, "msgSerial": serial, "messages": messages}
    return msgpack.packb(message) if binary else json.dumps(message, ensure_ascii=False).encode()


IDS = st.sampled_from(["a", "b", "c", "ü"])
MESSAGE = st.fixed_dictionaries({"data": st.text(max_size=5)}, optional={"name": st.sampled_from(["n", 'q"'])})
MESSAGES = st.one_of(
    st.lists(MESSAGE, min_size=1, max_size=3),
    st.builds(lambda m, i: [{**m, "id": i}], MESSAGE, IDS),
    st.builds(lambda m, i: [{**m, "id": f"{i}:{n}"} for n in range(2)], MESSAGE, IDS),
)
STEP = st.one_of(
    st.tuples(
        st.sampled_from(["one", "zwei ✓"]), st.sampled_from([None, None, None, 0, 1, 2]), MESSAGES, st.booleans()
    ),
    st.booleans(),
)


@given(steps=st.lists(STEP, max_size=30), client_id=st.sampled_from([None, "ann", "ä" * 40]))
def test_fast_and_slow_path_give_the_same_log_and_answers(steps, client_id):
    short, long = Publisher(True, client_id), Publisher(False, client_id)
    next_serial = 0
    for step in [*steps, True, True]:
        if isinstance(step, bool):
            short.settle(step)
            long.settle(step)
        else:
            channel, again, messages, binary = step
            serial = next_serial if again is None else again
            next_serial = max(next_serial, serial + 1)
            payload = protocol_message(channel, serial, messages, binary)
            short.send(payload, binary)
            long.send(payload, binary)
            assert short.acks.bytes == long.acks.bytes
            assert short.common.remembered == long.common.remembered
            assert short.common.pending_bytes == long.common.pending_bytes
    assert long.short == 0
    for name in short.channels:
        assert [record for _, _, record in short.log(name)] == [record for _, _, record in long.log(name)]
        serials = [serial for serial, _, _ in short.log(name)]
        assert serials == sorted(set(serials))
        assert len(short.channels[name].dedup) == len(long.channels[name].dedup)
    assert short.told() == long.told()


def test_plain_publishes_take_the_short_way():
    publisher = Publisher(True)
    for serial in range(10):
        publisher.send(
            protocol_message("one", serial, [{"data": "x"}] * (1 + serial % 3), bool(serial % 2)), bool(serial % 2)
        )
    publisher.send(protocol_message("one", 10, [{"id": "mine", "data": "x"}], False), False)
    assert publisher.short == 11
    publisher.settle(True)
    assert [len(one["serials"]) for answer in publisher.answers for one in answer["res"]] == [
        *[1 + n % 3 for n in range(10)],
        1,
    ]


PLAIN = protocol_message("one", 0, [{"data": "x"}], False)


@pytest.mark.parametrize(
    ("payload", "bounds", "why"),
    [
        (protocol_message("two", 0, [{"data": "x"}], False), {}, "the channel was not granted"),
        (protocol_message("one", 0, [{"data": "x", "clientId": "bob"}], False), {}, "it names a client"),
        (protocol_message("one", 0, [{"data": "x", "extras": {}}], False), {}, "it is not plain"),
        (protocol_message("one", 0, [{"data": "x" * 1001}], False), {}, "it is too large"),
        (protocol_message("one", 0, [{"data": "x"}] * 4, False), {}, "it has too many messages"),
        (PLAIN[:-1], {}, "it is broken"),
        (b"", {}, "there is nothing"),
    ],
)
def test_unusual_publish_goes_to_the_slow_path_unchanged(payload, bounds, why):
    publisher = Publisher(True, **bounds)
    assert not publisher.ingest.offer(payload, False), why
    assert len(publisher.sequencer) == len(publisher.acks) == publisher.common.remembered == 0
    assert publisher.ingest.offer(PLAIN, False)


def test_beyond_a_bound_the_long_way_decides():
    publisher = Publisher(True, max_unanswered=0)
    assert publisher.ingest.offer(PLAIN, False)
    assert not publisher.ingest.offer(protocol_message("one", 1, [{"data": "x"}], False), False)
    publisher.settle(True)
    assert publisher.ingest.offer(protocol_message("one", 1, [{"data": "x"}], False), False)

    crowded = Publisher(True, max_staged=0)
    assert crowded.ingest.offer(PLAIN, False)
    assert not crowded.ingest.offer(protocol_message("zwei ✓", 1, [{"data": "x"}], False), False)

    full = Publisher(True, max_remembered=1)
    assert full.ingest.offer(PLAIN, False)
    assert not full.ingest.offer(protocol_message("one", 1, [{"data": "x"}], False), False)


def test_grant_ends_when_revoked_or_when_the_channel_sleeps():
    publisher = Publisher(True)
    messages = iter(protocol_message("one", n, [{"data": "x"}], False) for n in range(100))
    assert publisher.ingest.offer(next(messages), False)
    publisher.ingest.revoke("zwei ✓")
    assert publisher.ingest.offer(next(messages), False)
    publisher.ingest.revoke("one")
    assert not publisher.ingest.offer(next(messages), False)
    publisher.ingest.grant("one", publisher.channels["one"])
    assert publisher.ingest.offer(next(messages), False)
    publisher.channels["one"].awake = False
    assert not publisher.ingest.offer(next(messages), False)
    publisher.channels["one"].awake = True
    publisher.author = Author(CONNECTION, "somebody")
    publisher.ingest.bound(publisher.author, TERMS)
    assert not publisher.ingest.offer(next(messages), False)


def test_refused_publish_can_be_sent_again_as_new():
    publisher = Publisher(True)
    publisher.send(PLAIN, False)
    publisher.settle(False)
    publisher.send(PLAIN, False)
    publisher.settle(True)
    assert publisher.short == 2
    assert publisher.told() == [(0, "JournalUnavailable", DOWN.code), (0, [(("one", 0), "000")])]


LONG_QUEUE = """
import gc, threading
from ext.wire.acks import AckQueue

def forget_many():
    acks = AckQueue(0, [])
    for n in range(100_000):
        acks.expect(n, 1)
    del acks
    gc.collect()

threading.stack_size(1 << 18)
thread = threading.Thread(target=forget_many)
thread.start()
thread.join()
"""


def test_long_answer_queue_is_freed_without_recursion():
    """On a small stack, or it would take millions of them; in a process of its own, for it is that which would end."""
    assert subprocess.run([sys.executable, "-c", LONG_QUEUE], timeout=60).returncode == 0


def test_reopened_channel_takes_the_fast_path_again():
    publisher = Publisher(True)
    messages = iter(protocol_message("one", n, [{"data": "x"}], False) for n in range(100))
    assert publisher.ingest.offer(next(messages), False)
    publisher.settle(True)
    publisher.channels["one"].awake = False
    assert not publisher.ingest.offer(next(messages), False)
    publisher.channels["one"] = awake("one", within=publisher.channels["one"].partition)
    publisher.ingest.grant("one", publisher.channels["one"])
    assert publisher.ingest.offer(next(messages), False)
    assert publisher.channels["one"].staged == 1


def test_an_answer_is_of_a_size_that_every_client_takes():
    publisher = Publisher(True, max_messages=1000)
    sizes = [1] * 2500 + [700, 700, 1000, 1]
    for serial, size in enumerate(sizes):
        publisher.send(protocol_message("one", serial, [{}] * size, True), True)
    publisher.settle(True)
    assert publisher.short == len(sizes)
    assert [answer["count"] for answer in publisher.answers] == [1000, 1000, 500, 1, 1, 1, 1]
    assert [answer["msgSerial"] for answer in publisher.answers] == [0, 1000, 2000, 2500, 2501, 2502, 2503]
    places = [place for answer in publisher.answers for place in answer["res"]]
    assert [len(place["serials"]) for place in places] == sizes
    assert publisher.acks.bytes == publisher.common.pending_bytes == 0


def test_publishes_with_nothing_in_them_reach_the_bounds_too():
    """Each takes a few hundred bytes of ours until it is stored: a slow disk must not let millions pile up."""
    for bounds in ({"max_unanswered": 1 << 20}, {"max_staged": 1 << 20}):
        publisher = Publisher(True, **({"max_unanswered": 1 << 40, "max_staged": 1 << 40} | bounds))
        taken = 0
        while taken < 10_000 and publisher.ingest.offer(protocol_message("one", taken, [{}], True), True):
            taken += 1
        assert 1000 < taken < 5000
