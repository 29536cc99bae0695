"""What the load tester counts, against a plain twin; its marks; its schedule."""

from __future__ import annotations

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.load.publisher import MARK_BYTES, Publisher, Tally, Template, now_ns
from ext.load.receiver import Receiver
from ext.wire.frame import FrameDecoder
from server.bench.options import Ramp
from server.bench.schedule import Schedule

RUN = b"abcd1234"
MARK = "~" * MARK_BYTES


def template(binary=False, publisher=0, count=1):
    message = {"messages": [{"data": MARK + "xx"}] * count}
    if binary:
        return Template(b"\x82\xa9msgSerial", msgpack.packb(message)[1:], True, RUN, publisher)
    return Template(b'{"msgSerial":', b"," + json.dumps(message)[1:].encode(), False, RUN, publisher)


def delivery(publisher, sequence, serial="s"):
    data = json.loads(template(publisher=publisher).make(0, sequence, now_ns()))["messages"][0]["data"]
    return json.dumps(
        {"action": 15, "channelSerial": serial, "messages": [{"data": data}]}, separators=(",", ":")
    ).encode()


@pytest.mark.parametrize("binary", [False, True])
def test_a_publish_has_its_number_and_a_mark_in_each_message(binary):
    made = template(binary, publisher=0xABC, count=3).make(300, 0x1F, 0x123456789)
    message = msgpack.unpackb(made) if binary else json.loads(made)
    assert message["msgSerial"] == 300
    assert [one["data"] for one in message["messages"]] == [
        f"~abcd1234.000abc.{0x1F + n:010x}.{0x123456789:016x}~xx" for n in range(3)
    ]


class Model:
    """One publisher's numbers at one subscriber."""

    def __init__(self):
        self.expected, self.holes = 0, set()
        self.repeats = self.inversions = 0

    def take(self, sequence):
        if sequence >= self.expected:
            self.holes |= set(range(self.expected, sequence))
            self.expected = sequence + 1
        elif sequence in self.holes:
            self.holes.remove(sequence)
            self.inversions += 1
        else:
            self.repeats += 1


@given(arrivals=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=60))
def test_gaps_repeats_and_inversions_match_a_plain_twin(arrivals):
    tally = Tally(RUN)
    receiver = Receiver(tally, 0, 0, 1, 3, None)
    models = [Model() for _ in range(3)]
    for publisher, sequence in arrivals:
        assert receiver.offer(delivery(publisher, sequence), False)
        models[publisher].take(sequence)
    for publisher, model in enumerate(models):
        assert receiver.expected(publisher) == model.expected
        assert {n for begin, end in receiver.missing(publisher) for n in range(begin, end)} == model.holes
    assert tally.missing == sum(len(model.holes) for model in models)
    assert tally.repeats == sum(model.repeats for model in models)
    assert tally.inversions == sum(model.inversions for model in models)
    assert receiver.received == tally.delivered == len(arrivals)


def test_several_marks_in_a_message_all_count():
    tally = Tally(RUN)
    receiver = Receiver(tally, 0, 0, 1, 1, None)
    made = template(count=5).make(0, 0, now_ns())
    assert receiver.offer(made, False)
    assert tally.delivered == 5
    assert not receiver.offer(b'{"action":11}', False)
    assert not receiver.offer(made.replace(b"~abcd1234.", b"~99999999."), False)  # another run's
    assert receiver.offer(made[: made.index(b"~") + 30], False)  # cut off: it was ours, and counts for nothing
    assert tally.delivered == 5


def test_damage_and_the_wrong_channel_are_found():
    tally = Tally(RUN)
    receiver = Receiver(tally, 0, 0, 2, 4, None)
    receiver.offer(delivery(1, 0), False)
    receiver.offer(delivery(4, 0), False)
    receiver.offer(delivery(0, 0).replace(b".0000000000.", b".00000z0000."), False)
    assert (tally.misplaced, tally.delivered) == (3, 0)
    assert len(tally.examples) == 3


@pytest.mark.parametrize("binary", [False, True])
def test_acks_in_the_usual_form_are_counted_and_timed(binary):
    tally, touched = Tally(RUN), []
    tally.measure(0, 1 << 62)
    publisher = Publisher(tally, 0, template(count=2), None, touched)
    receiver = Receiver(tally, 0, 0, 1, 0, publisher)
    publisher.frames([now_ns()] * 300)
    ack = {"action": 1, "msgSerial": 0, "count": 299, "res": []}
    payload = msgpack.packb(ack) if binary else json.dumps(ack, separators=(",", ":")).encode()
    assert receiver.offer(payload, binary)
    assert (publisher.answered, tally.acknowledged, tally.ack_latency.count) == (299, 598, 299)
    assert touched == [publisher]
    assert receiver.offer(payload, binary)  # once more: nobody had asked
    assert (publisher.answered, tally.stray_acks) == (299, 1)


def test_a_refusal_is_an_answer_and_its_messages_are_known():
    tally, touched = Tally(RUN), []
    publisher = Publisher(tally, 0, template(count=2), None, touched)
    publisher.frames([now_ns()] * 3)
    publisher.acknowledge(0, 1)
    publisher.refuse(1, 1)
    publisher.refuse(2, 2)  # more than were sent
    assert (publisher.answered, publisher.refused, list(publisher.refused_messages)) == (2, 1, [(2, 4)])
    assert (tally.acknowledged, tally.stray_acks) == (2, 1)


def test_last_channel_serial_is_remembered_on_request():
    receiver = Receiver(Tally(RUN), 0, 0, 1, 1, None, keep_serial=True)
    assert receiver.channel_serial is None
    receiver.start_from("0@start")
    receiver.offer(delivery(0, 0, "0001@abc"), False)
    assert receiver.channel_serial == "0001@abc"
    packed = msgpack.packb(
        {"channelSerial": "0002@" + "x" * 40, "data": json.loads(delivery(0, 1))["messages"][0]["data"]}
    )
    receiver.offer(packed, True)
    assert receiver.channel_serial == "0002@" + "x" * 40


@given(
    begin=st.floats(0, 1e5),
    end=st.floats(0.1, 1e5),
    seconds=st.sampled_from([0.0, 0.5, 3.0, 100.0]),
    number=st.integers(0, 10**6),
)
def test_message_counts_from_the_moment_when_it_is_due(begin, end, seconds, number):
    if seconds == 0:
        begin = end
    schedule = Schedule(Ramp(begin, end, seconds))
    due = schedule.due(number)
    assert due >= 0
    assert schedule.count(due + 1e-6 + due * 1e-6) >= number + 1
    assert schedule.count(due - 1e-6 - due * 1e-6) <= number + 1
    assert schedule.due(number + 1) > due


@pytest.mark.parametrize("begin", [5e-324, 1e-311, 1e-200, 0.0])
def test_ramp_from_almost_zero_begins_at_once(begin):
    schedule = Schedule(Ramp(begin, 100, 2))
    assert [schedule.due(n) for n in (0, 1, 25)] == pytest.approx([0, 0.2, 1])
    assert schedule.due(0) == 0


def test_a_ramp_that_is_almost_none_is_as_even_as_none():
    """Times are good to a nanosecond; a difference of nearly equal numbers was off by milliseconds."""
    schedule = Schedule(Ramp(1e5, 1e5 + 1e-6, 100))
    assert all(abs(schedule.due(n) - n / 1e5) < 1e-9 for n in range(0, 100_000, 777))


def test_a_steady_rate_is_steady():
    schedule = Schedule(Ramp(1000, 1000, 0))
    assert [round(schedule.due(n), 6) for n in (0, 1, 500, 5000)] == [0, 0.001, 0.5, 5]
    assert schedule.count(-1) == 0
    assert [schedule.count(t) for t in (0, 0.0005, 1.0005)] == [1, 1, 1001]


@pytest.mark.parametrize("binary", [False, True])
def test_frames_are_masked_and_unanswered_ones_can_be_repeated(binary):
    publisher = Publisher(Tally(RUN), 0xABC, template(binary, publisher=0xABC, count=2), None, [])
    made = publisher.frames(list(range(100, 1300))) + publisher.frames([7])
    publisher.acknowledge(0, 1000)

    def read(frames):
        events = FrameDecoder(1 << 20).receive(frames)  # a server's: it takes masked frames only
        assert {event.kind for event in events} == {2 if binary else 1}
        return [msgpack.unpackb(event.payload) if binary else json.loads(event.payload) for event in events]

    messages = read(made)
    assert [message["msgSerial"] for message in messages] == list(range(1201))
    assert [one["data"] for one in messages[-1]["messages"]] == [
        f"~abcd1234.000abc.{2400 + n:010x}.{7:016x}~xx" for n in range(2)
    ]
    assert messages[11]["messages"][0]["data"].split(".")[3] == f"{111:016x}~xx"
    assert read(publisher.unanswered_frames()) == messages[1000:]
    assert publisher.sent == 1201
    publisher.acknowledge(1000, 201)
    assert publisher.unanswered_frames() == b""


@pytest.mark.parametrize("size", [1, 80, 126, 200, 65_400, 65_600, 200_000])
def test_frame_of_every_length_has_the_right_header(size):
    after = b',"d":"' + MARK.encode() + b"x" * size + b'"}'
    publisher = Publisher(Tally(RUN), 0, Template(b'{"msgSerial":', after, False, RUN, 0), None, [])
    events = FrameDecoder(1 << 20).receive(publisher.frames([5, 6]))
    assert [json.loads(event.payload)["d"][45:] for event in events] == ["x" * size] * 2


def test_message_due_in_the_measured_time_counts_however_late():
    tally = Tally(RUN)
    publisher = Publisher(tally, 0, template(), None, [])
    receiver = Receiver(tally, 0, 0, 1, 1, publisher)
    begin = now_ns() - 10_000_000_000
    dues = [begin - 1, begin, begin + 999, begin + 1000]
    publisher.frames(dues)
    tally.measure(begin, begin + 1000)
    for number, due in enumerate(dues):
        receiver.offer(template().make(number, number, due), False)
    publisher.acknowledge(0, 4)
    assert tally.latency.count == tally.ack_latency.count == 2
    assert tally.latency.percentile(0) >= 10_000_000
    assert tally.delivered == tally.acknowledged == 4
