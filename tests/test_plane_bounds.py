"""What all sockets of a plane hold together: messages that have come in part, replies that nobody takes."""

from __future__ import annotations

import socket

import pytest

from ext.net.plane import GONE, NO_ROOM, VIOLATION, Plane
from ext.net.room import Room
from tests.test_plane import T0, TIMES

MOST = 1 << 20


@pytest.fixture
def room():
    return Room(MOST)


@pytest.fixture
def connect(room):
    """(plane, a function that adds a socket to it and returns that, and its peer); in the end nothing is counted."""
    plane, peers = Plane(**TIMES, parts=room, max_waiting=MOST), []

    def add(owner):
        ours, theirs = socket.socketpair()
        peers.append(theirs)
        theirs.setblocking(False)
        ours.setblocking(False)
        return plane.add(ours.detach(), owner, msgpack=False, heartbeats=False, now_ms=T0), theirs

    yield plane, add
    plane.close()
    assert plane.waiting == 0
    assert room.held == 0
    for peer in peers:
        peer.close()


def send(plane, peer, data):
    """All of it, read as it comes; the events."""
    events = []
    while data:
        try:
            data = data[peer.send(data) :]
        except BlockingIOError:
            pass
        except ConnectionError:
            break
        events += plane.poll(T0)
    return events + plane.poll(T0)


def begun(size, sent, first=b"\x81"):
    return first + b"\xff" + size.to_bytes(8, "big") + b"\0\0\0\0" + b" " * sent


@pytest.mark.parametrize("fragments", [False, True], ids=["cut", "fragments"])
def test_half_messages_count_until_whole_and_excess_is_told(connect, room, fragments):
    plane, add = connect
    half = begun(100_000, 100_000, b"\x01") if fragments else begun(200_000, 100_000)
    events, peers = [], []
    for owner in range(12):
        _, peer = add(owner)
        events += send(plane, peer, half)
        peers.append(peer)
        assert room.held <= MOST
    assert [(kind, code) for _, kind, code in events] == [(VIOLATION, NO_ROOM)] * len(events)
    refused = [owner for owner, _, _ in events]
    assert 4 <= len(refused) <= 6
    whole = next(owner for owner in range(12) if owner not in refused)
    before = room.held
    rest = begun(100_000, 100_000, b"\x80") if fragments else b" " * 100_000
    ((owner, _, message),) = send(plane, peers[whole], rest)
    assert (owner, len(message)) == (whole, 200_000)
    assert room.held <= before - 100_000, "it holds nothing any more"


def test_small_partial_messages_fit_beside_large_ones(connect, room):
    plane, add = connect
    for owner in range(8):
        send(plane, add(owner)[1], begun(900_000, 200_000))
    _, peer = add("small")
    assert send(plane, peer, begun(70_000, 500)) == []
    ((owner, _, message),) = send(plane, peer, b" " * 69_500)
    assert (owner, len(message)) == ("small", 70_000)


def test_who_leaves_most_unread_goes_when_all_leave_too_much(connect):
    plane, add = connect
    stalled = [add(n)[0] for n in range(4)]
    modest, reader = add("modest"), add("reader")
    for one in stalled:
        one.send(b"x" * 700_000)
    modest[0].send(b"x" * 300_000)
    reader[0].send(b"x" * 900_000)
    received = b""
    while len(received) < 900_000:
        plane.flush()
        received += reader[1].recv(1 << 20)
        plane.poll(T0)
    assert plane.waiting > MOST
    plane.tick(T0 + 1)
    gone = [owner for owner, kind, _ in plane.poll(T0 + 1) if kind == GONE]
    assert 0 < len(gone) <= 4
    assert set(gone) <= set(range(4))
    assert plane.waiting <= MOST
    assert not modest[0].closed
    assert not reader[0].closed


def test_nobody_goes_while_all_of_it_fits(connect):
    plane, add = connect
    one, _ = add("alone")
    one.send(b"x" * 1_000_000)
    plane.flush()
    plane.tick(T0 + 1)
    assert plane.poll(T0 + 1) == []
    assert 0 < plane.waiting < MOST
