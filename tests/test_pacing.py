"""Who publishes how much: windows and schedules, with sockets that take what the test lets them take."""

from __future__ import annotations

import json

import pytest

from ext.load.publisher import Publisher, Tally, Template
from ext.wire.frame import FrameDecoder
from server.bench import pacing
from server.bench.options import Ramp
from server.bench.pacing import AT_ONCE, QUEUED_BYTES, Scheduled, Windows

RUN = b"abcd1234"
FRAME_BYTES = 100
SECOND = 1_000_000_000


class FakeConnection:
    """Owner and socket in one."""

    def __init__(self):
        self.ready, self.lost, self.queued = True, False, 0
        self.socket = self
        self.publishes: list[tuple[int, int]] = []  # number, due
        self._decoder = FrameDecoder(1 << 20)

    def send_frames(self, frames):
        for event in self._decoder.receive(frames):
            message = json.loads(event.payload)
            self.publishes.append((message["msgSerial"], int(message["d"].split(".")[3].strip("~"), 16)))


class Clock:
    def __init__(self):
        self.now = 5 * SECOND

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pacing, "now_ns", clock)
    return clock


def made(count, touched=None):
    tally, touched = Tally(RUN), [] if touched is None else touched
    publishers = []
    for number in range(count):
        template = Template(b'{"msgSerial":', b',"d":"' + b"~" * 45 + b'"}', False, RUN, number)
        publishers.append(Publisher(tally, number, template, FakeConnection(), touched))
    return publishers


def test_a_window_is_filled_and_filled_again_as_answers_come(clock):
    touched: list[Publisher] = []
    publishers = made(2, touched)
    windows = Windows(publishers, touched, 3, FRAME_BYTES, most=5)
    assert windows.step() and not windows.step()
    assert [publisher.sent for publisher in publishers] == [3, 3]
    publishers[0].acknowledge(0, 2)
    publishers[1].refuse(0, 1)
    assert windows.step() and not windows.step()
    assert [publisher.sent for publisher in publishers] == [5, 4]
    publishers[0].acknowledge(2, 3)
    assert not windows.step()  # it has sent all that it should
    assert [number for number, _ in publishers[0].owner.publishes] == [0, 1, 2, 3, 4]


def test_message_for_a_full_or_cut_socket_is_sent_later(clock):
    touched: list[Publisher] = []
    full, away, lost = publishers = made(3, touched)
    full.owner.queued, away.owner.ready = QUEUED_BYTES, False
    lost.owner.ready, lost.owner.lost = False, True
    windows = Windows(publishers, touched, 2, FRAME_BYTES)
    assert not windows.step()
    full.owner.queued, away.owner.ready, lost.owner.ready = 0, True, True
    assert windows.step()
    assert [publisher.sent for publisher in publishers] == [2, 2, 0]


def test_publishers_take_turns_with_the_due_times(clock):
    publishers = made(3)
    scheduled = Scheduled(publishers, Ramp(10, 10, 0), FRAME_BYTES)
    clock.now += SECOND // 2  # at 0, 100 .. 500 ms: six are due
    assert scheduled.step() and not scheduled.step()
    due = [[(due - 5 * SECOND) // 1_000_000 for _, due in one.owner.publishes] for one in publishers]
    assert due == [[0, 300], [100, 400], [200, 500]]
    assert (scheduled.late_ns, scheduled.held_ns, scheduled.unsent()) == (SECOND // 2, 0, 0)


def test_blocked_connection_keeps_its_times_and_delays_no_other(clock):
    held, free = publishers = made(2)
    scheduled = Scheduled(publishers, Ramp(10, 10, 0), FRAME_BYTES)
    held.owner.ready = False
    for _ in range(10):
        scheduled.step()
        clock.now += SECOND // 10
    assert (held.sent, free.sent, scheduled.unsent()) == (0, 5, 5)
    assert scheduled.late_ns == 0
    held.owner.ready = True
    scheduled.step()
    assert [(due - 5 * SECOND) // 1_000_000 for _, due in held.owner.publishes] == [0, 200, 400, 600, 800, 1000]
    assert (scheduled.late_ns, scheduled.held_ns, scheduled.unsent()) == (0, SECOND, 0)


def test_backlog_leaves_in_pieces_so_that_input_gets_its_turn(clock):
    (publisher,) = made(1)
    scheduled = Scheduled([publisher], Ramp(1000, 1000, 0), FRAME_BYTES)
    clock.now += SECOND - 1
    assert scheduled.step()
    assert (publisher.sent, scheduled.unsent()) == (AT_ONCE, 1000 - AT_ONCE)
    while scheduled.step():
        pass
    assert [number for number, _ in publisher.owner.publishes] == list(range(1000))


def test_a_rate_is_one_of_messages_not_of_publishes(clock):
    template = Template(b'{"msgSerial":', b',"d":"' + b"~" * 45 + b'","e":"' + b"~" * 45 + b'"}', False, RUN, 0)
    publisher = Publisher(Tally(RUN), 0, template, FakeConnection(), [])
    scheduled = Scheduled([publisher], Ramp(20, 20, 0), FRAME_BYTES)
    publisher.owner.ready = False
    clock.now += SECOND - 1
    scheduled.step()
    assert scheduled.unsent() == 20
    publisher.owner.ready = True
    scheduled.step()
    assert (publisher.sent, scheduled.unsent()) == (10, 0)
