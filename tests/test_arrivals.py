"""What clients send in bursts is looked at in turns: each client's in its order, no one after all of another's."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.events import TextMessage

from engine.limits import LARGE_INPUT_BYTES
from ext.net.plane import BEHIND, BINARY, DRAINED, FAILED, GONE, TEXT, VIOLATION, Plane
from server.node import arrivals as room
from server.node.arrivals import Arrivals
from tests.test_plane import T0, TIMES, FarEnd, flush, poll


class Transport:
    def __init__(self):
        self.stalled = []

    def stall(self, waits):
        self.stalled.append(waits)


class FakeClient:
    """Notes what comes, in the order of all of them. All parts of a client are one here."""

    def __init__(self, log, name):
        self.log, self.name = log, name
        self.transport = Transport()
        self.drained = None
        self.session = self.attaching = self

    def receive(self, payload, wire):
        if payload == b"bug":
            raise RuntimeError("a bug")
        self.log.append((self.name, TEXT if wire == 0 else BINARY, payload))

    def gone(self):
        self.log.append((self.name, GONE, None))

    def violated(self, code):
        self.log.append((self.name, VIOLATION, code))

    def fell_behind(self, reader):
        self.log.append((self.name, BEHIND, reader))

    def all_taken(self):
        if self.drained is not None:
            drained, self.drained = self.drained, None
            drained()

    def fail(self, error):
        self.log.append((self.name, FAILED, error.code))


@pytest.fixture
def hurried(monkeypatch):
    """There is time for one event of each turn."""
    monkeypatch.setattr(room, "LOOK_SECONDS", -1.0)


LARGE = bytes(LARGE_INPUT_BYTES)
DATA = st.one_of(st.binary(max_size=3), st.binary(max_size=3).map(lambda text: LARGE + text))
EVENTS = st.tuples(st.integers(0, 3), st.sampled_from([TEXT, BINARY, VIOLATION, BEHIND]), DATA)


@given(polls=st.lists(st.lists(EVENTS, max_size=12), max_size=6), seconds=st.sampled_from([-1.0, 0.0, 1.0]))
def test_each_client_keeps_its_order_and_loses_nothing(polls, seconds):
    log, clients = [], []
    clients = [FakeClient(log, n) for n in range(4)]
    arrivals = Arrivals()
    before, room.LOOK_SECONDS = room.LOOK_SECONDS, seconds
    try:
        sent = []
        for events in polls:
            arrivals.look([(clients[who], kind, data) for who, kind, data in events])
            sent += events
        room.LOOK_SECONDS = 1.0
        while len(arrivals):
            arrivals.look([])
    finally:
        room.LOOK_SECONDS = before
    assert len(arrivals) == 0
    for n, client in enumerate(clients):
        assert [event for event in log if event[0] == n] == [event for event in sent if event[0] == n]
        assert client.transport.stalled == [True, False] * (len(client.transport.stalled) // 2)


def test_large_message_takes_a_turn_and_small_ones_do_not_wait():
    log = []
    crowd, quiet = [FakeClient(log, n) for n in range(40)], FakeClient(log, "quiet")
    arrivals = Arrivals()
    arrivals.look([(client, TEXT, LARGE) for client in crowd])
    for n in range(1, 40):
        assert len(log) == 2 * n - 1
        arrivals.look([(quiet, TEXT, b"small"), (crowd[39], TEXT, b"behind its own")][: 1 if n < 39 else 2])
        assert log[-2][0] == "quiet" and log[-1][2] == LARGE
    arrivals.look([])
    assert log[-1] == (39, TEXT, b"behind its own") and len(arrivals) == 0


def test_client_with_one_message_waits_one_turn_of_each_other(monkeypatch):
    log = []
    greedy, modest = FakeClient(log, "greedy"), FakeClient(log, "modest")
    arrivals = Arrivals()
    monkeypatch.setattr(room, "LOOK_SECONDS", -1.0)
    arrivals.look([(greedy, TEXT, b"%d" % n) for n in range(1000)] + [(modest, TEXT, b"x")])
    assert log == [("greedy", TEXT, b"0")]
    assert (greedy.transport.stalled, modest.transport.stalled) == ([True], [True])
    monkeypatch.setattr(room, "LOOK_SECONDS", 60.0)
    arrivals.look([])
    assert log[1:3] == [("greedy", TEXT, b"1"), ("modest", TEXT, b"x")]
    assert modest.transport.stalled == [True, False]


def test_a_turn_ends_in_time_however_much_waits(monkeypatch):
    log = []

    class Slow(FakeClient):
        def receive(self, payload, wire):
            time.sleep(0.0005)
            super().receive(payload, wire)

    arrivals = Arrivals()
    events = [(Slow(log, n % 3), TEXT, b"x") for n in range(300)]
    longest = 0.0
    while events or len(arrivals):
        begun = time.perf_counter()
        arrivals.look(events)
        longest = max(longest, time.perf_counter() - begun)
        events = []
    assert len(log) == 300
    assert longest < 0.05  # 300 of them take more than 150 ms


def test_a_bug_met_by_one_message_ends_that_client_alone(hurried, caplog):
    log = []
    bad, good = FakeClient(log, "bad"), FakeClient(log, "good")
    arrivals = Arrivals()
    arrivals.look([(bad, TEXT, b"bug"), (good, TEXT, b"x"), (bad, FAILED, RuntimeError("another")), (None, TEXT, b"")])
    room.LOOK_SECONDS = 1.0
    arrivals.look([])
    assert log == [("bad", FAILED, 50000), ("good", TEXT, b"x"), ("bad", FAILED, 50000)]


def test_drained_comes_with_the_input_and_the_end_is_passed_on(hurried):
    log = []
    client = FakeClient(log, "me")
    client.drained = lambda: log.append("drained")
    arrivals = Arrivals()
    arrivals.look([(client, DRAINED, None), (client, DRAINED, None), (client, GONE, "gone")])
    room.LOOK_SECONDS = 1.0
    arrivals.look([])
    assert log == ["drained", ("me", GONE, None)]


# the plane's part


@pytest.fixture
def plane():
    plane = Plane(**TIMES)
    yield plane
    plane.close()


def test_client_with_waiting_messages_is_not_read_from(plane):
    peer, other = FarEnd(plane, "me"), FarEnd(plane, "other")
    peer.handle.stall(True)
    peer.send(TextMessage("one"))
    other.send(TextMessage("two"))
    assert poll(plane) == [("other", TEXT, b"two")]
    assert plane.poll(T0 + TIMES["lost_ms"] * 2) == []
    assert plane.tick(T0 + TIMES["lost_ms"] - 1) in (True, False)
    peer.handle.stall(False)
    assert poll(plane) == [("me", TEXT, b"one")]


def test_whose_messages_wait_is_not_lost_for_its_silence(plane):
    peer = FarEnd(plane, "me")
    peer.handle.stall(True)
    plane.tick(T0 + 10 * TIMES["lost_ms"])
    plane.poll(T0 + 10 * TIMES["lost_ms"])
    peer.handle.stall(False)
    plane.tick(T0 + 10 * TIMES["lost_ms"] + 1000)
    flush(plane)
    assert not peer.handle.closed


def test_poll_with_many_events_stops_and_the_next_continues(plane):
    peers = [FarEnd(plane, n) for n in range(8)]
    for peer in peers:
        peer.socket.sendall(b"".join(peer.codec.send(TextMessage("x")) for _ in range(200)))
    seen, most = [], 0
    time.sleep(0.05)
    for _ in range(8):
        events = plane.poll(T0)
        most = max(most, len(events))
        seen += [owner for owner, _, _ in events]
    assert most <= 400
    assert [seen.count(n) for n in range(8)] == [200] * 8


def test_in_a_crowd_little_is_read_of_each(plane):
    peer = FarEnd(plane, "me")
    peer.socket.sendall(b"".join(peer.codec.send(TextMessage("x" * 94)) for _ in range(2000)))
    time.sleep(0.05)
    plane.crowded = True
    assert 100 < len(plane.poll(T0)) < 200
    plane.crowded = False
    assert len(poll(plane, want=1000)) > 1000
