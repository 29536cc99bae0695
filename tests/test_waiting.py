"""What ends a wait of the plane, and which parts have their look in the turn that follows."""

from __future__ import annotations

import os
import threading
import time

import pytest

from ext.net.plane import Plane
from ext.wire.acks import AckQueue
from server.node.turn import Turn
from tests.test_plane import T0, TIMES, tcp_pair

LONG_US = 5_000_000


class Committer:
    def __init__(self, turns, has_work):
        self.has_work, self.busy, self.turns = has_work, False, turns

    def turn(self):
        self.turns.append(self)
        return False


class Owner:
    def answer(self):
        pass


class Desk:
    def __init__(self):
        self.due, self.flushed = False, 0

    def flush(self):
        self.flushed += 1
        return False


@pytest.fixture
def plane():
    made = Plane(**TIMES)
    yield made
    made.close()


@pytest.fixture
def listened():
    ours, theirs = os.pipe()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def later(what):
    thread = threading.Timer(0.05, what)
    thread.start()
    return thread


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("what", ["kick", "done", "heard"])
def test_wait_ends_and_tells_what_ended_it(plane, listened, gather, what):
    plane.listen_to(listened[0])
    end = {
        "kick": plane.kick,
        "done": lambda: os.eventfd_write(plane.done_fd, 1),
        "heard": lambda: os.write(listened[1], b"x"),
    }[what]
    thread = later(end)
    begun = time.monotonic()
    assert plane.poll(T0, wait_us=LONG_US, gather=gather) == []
    assert time.monotonic() - begun < 2
    thread.join()
    assert (plane.kicked, plane.heard) == (what == "kick", what == "heard")
    assert plane.woken == 1
    plane.poll(T0)
    assert (plane.kicked, plane.heard) == (False, what == "heard"), "input that nobody reads is heard again"


def test_gathering_goes_on_until_a_result_is_there(plane):
    """Input for sinks alone ends no wait that gathers; a result of a thread does, whether or not input came first."""
    ours, theirs = tcp_pair()
    plane.add(ours.detach(), object(), msgpack=False, heartbeats=False, now_ms=T0)
    theirs.sendall(b"\x8a\x80\x01\x02\x03\x04")  # a pong: no event comes of it
    thread = later(lambda: os.eventfd_write(plane.done_fd, 1))
    begun = time.monotonic()
    assert plane.poll(T0, wait_us=LONG_US, gather=True) == []
    assert 0.04 < time.monotonic() - begun < 2
    assert plane.woken == 2
    thread.join()
    theirs.close()


def test_parts_are_looked_at_only_where_they_may_have_work(plane):
    turns, looks, desk = [], [], Desk()
    idle, busy = Committer(turns, False), Committer(turns, True)
    turn = Turn(plane, None, [idle, busy])
    turn.looks.append(lambda: looks.append(1))
    turn.desk = desk
    turn.end(whole=False)
    assert (turns, looks, desk.flushed) == ([busy], [], 0)
    desk.due = True
    turn.end(whole=True)
    assert (turns, looks, desk.flushed) == ([busy, busy], [1], 1)


def test_owners_that_answered_give_the_next_turn_a_look(plane):
    """An owner may process what it has put off, and so give work to other parts."""
    looks = []
    turn = Turn(plane, None, [])
    turn.looks.append(lambda: looks.append(1))
    queue = AckQueue(0, turn.touched)
    queue.owner = Owner()
    turn.touched.append(queue)
    turn.end(whole=False)
    assert looks == []
    turn.end(whole=False)
    assert looks == [1]
    turn.end(whole=False)
    assert looks == [1]
