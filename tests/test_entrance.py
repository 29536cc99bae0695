"""Who comes in, who waits, and who is sent away."""

from __future__ import annotations

import os
import resource
import select
import socket

import pytest

from ext.net.accept import Entrance

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Door:
    def __init__(self, **options):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()
        bounds = {"max_waiting": 100, "head_bytes": 1000, "patience_ms": 10_000, "crowded_ms": 1_000}
        bounds["max_descriptors"] = 1 << 20
        self.entrance = Entrance(self.listener.fileno(), **(bounds | options))
        self.clients = []

    def knock(self, data=b""):
        client = socket.create_connection(self.address)
        client.sendall(data)
        self.clients.append(client)
        return client

    def poll(self, now_ms=0, least=1):
        """Polls until so many have arrived."""
        arrived = []
        while len(arrived) < least:
            assert select.select([self.entrance.fd], [], [], 30)[0]
            arrived += self.entrance.poll(now_ms)
        return arrived

    def settle(self, waiting):
        """Polls until so many wait, and nobody has arrived."""
        while len(self.entrance) != waiting:
            assert select.select([self.entrance.fd], [], [], 30)[0]
            assert self.entrance.poll(0) == []

    def close(self):
        for client in self.clients:
            client.close()
        self.listener.close()


@pytest.fixture
def door():
    made = Door()
    yield made
    made.close()


def is_gone(client):
    client.settimeout(30)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_has_sent_a_head_comes_in_with_all_that_was_sent(door):
    client = door.knock(HEAD + b"more")
    [(descriptor, received)] = door.poll()
    assert received == HEAD + b"more"
    os.write(descriptor, b"hello")
    assert client.recv(5) == b"hello"
    os.close(descriptor)
    assert len(door.entrance) == 0


@pytest.mark.parametrize("cut", [1, 10, len(HEAD) - 1, len(HEAD) - 2, len(HEAD) - 3])
def test_a_head_in_pieces_is_waited_for(door, cut):
    client = door.knock(HEAD[:cut])
    door.settle(1)
    client.sendall(HEAD[cut:])
    [(descriptor, received)] = door.poll()
    assert received == HEAD
    os.close(descriptor)
    assert len(door.entrance) == 0


def test_a_head_that_is_too_long_is_handed_up_as_it_is(door):
    client = door.knock(b"x" * 600)
    door.settle(1)
    client.sendall(b"y" * 600)
    [(descriptor, received)] = door.poll()
    assert received == b"x" * 600 + b"y" * 600
    os.close(descriptor)


def test_who_takes_too_long_or_goes_away_is_forgotten(door):
    slow, gone = door.knock(b"GET"), door.knock(b"GET")
    door.settle(2)
    gone.close()
    door.settle(1)
    assert door.entrance.expire(9_999) == 0
    assert door.entrance.expire(10_000) == 1
    assert is_gone(slow)
    assert len(door.entrance) == 0


def test_waiting_newcomers_are_bounded_and_others_follow():
    door = Door(max_waiting=3)
    slow = [door.knock(b"GET") for _ in range(3)]
    door.settle(3)
    late = [door.knock(HEAD) for _ in range(5)]
    assert not select.select([door.entrance.fd], [], [], 0)[0]  # nobody is accepted
    for client in slow:
        client.sendall(HEAD[3:])
    arrived = door.poll(least=8)
    assert [received for _, received in arrived] == [HEAD] * 8
    assert len(late) == 5
    for descriptor, _ in arrived:
        os.close(descriptor)
    door.close()


def test_silent_crowd_delays_others_only_briefly():
    door = Door(max_waiting=3)
    silent = [door.knock() for _ in range(2)]
    door.settle(2)
    assert door.entrance.expire(5_000) == 0, "there is room: nobody is in a hurry"
    silent.append(door.knock(b"GET"))
    door.settle(3)
    door.knock(HEAD)
    assert door.entrance.expire(999) == 0
    assert not select.select([door.entrance.fd], [], [], 0)[0]
    assert door.entrance.expire(1_000) == 3
    assert all(map(is_gone, silent))
    [(descriptor, received)] = door.poll()
    assert received == HEAD
    os.close(descriptor)
    door.close()


def test_a_storm_is_taken_in_batches_and_nobody_is_forgotten(door):
    for _ in range(300):
        door.knock(HEAD)
    batches = []
    while sum(batches) < 300:
        arrived = door.poll()
        batches.append(len(arrived))
        for descriptor, _ in arrived:
            os.close(descriptor)
    assert max(batches) <= 64


def test_without_a_descriptor_it_says_so_and_goes_on_later(door):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = [door.knock(HEAD) for _ in range(2)]
    taken = os.open("/dev/null", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 1, limits[1]))
    spare = []
    try:
        while True:
            try:
                spare.append(os.dup(taken))
            except OSError:
                break
        assert door.entrance.poll(0) == []
        assert door.entrance.starved
        door.entrance.pause()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in [taken, *spare]:
            os.close(descriptor)
    door.entrance.resume()
    arrived = door.poll(least=2)
    assert not door.entrance.starved
    for descriptor, _ in arrived:
        os.close(descriptor)
    assert len(clients) == 2


def test_descriptors_beyond_a_number_are_left_for_others():
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    filled = [os.dup(0)]  # so that the next ones follow one another
    while filled[-1] <= highest:
        filled.append(os.dup(0))
    door = Door(max_descriptors=filled[-1] + 5)  # listener, epoll, client, and its other end
    first = door.knock(b"GET")
    door.settle(1)
    assert not door.entrance.starved
    second = door.knock(HEAD)
    assert select.select([door.entrance.fd], [], [], 30)[0]
    assert door.entrance.poll(0) == []
    assert door.entrance.starved
    assert is_gone(second)
    first.close()
    door.settle(0)
    door.knock(HEAD)
    [(descriptor, received)] = door.poll()
    assert received == HEAD
    for each in [descriptor, *filled]:
        os.close(each)
    door.close()


def test_after_stop_newcomers_and_waiting_ones_are_sent_away(door):
    slow = door.knock(b"GET")
    door.settle(1)
    door.entrance.stop()
    assert is_gone(slow)
    door.knock(HEAD)
    assert not select.select([door.entrance.fd], [], [], 0)[0]
    assert door.entrance.poll(0) == []
    door.entrance.resume()
    assert door.entrance.poll(0) == []


def test_after_shut_nobody_is_accepted_and_others_continue(door):
    client = door.knock(HEAD[:9])
    door.settle(1)
    door.entrance.shut()
    outside = door.knock(HEAD)
    client.sendall(HEAD[9:])
    [(descriptor, received)] = door.poll()
    assert received == HEAD
    os.close(descriptor)
    assert not select.select([door.entrance.fd], [], [], 0)[0]
    door.entrance.resume()  # as after a shortage, which may be in the middle of it
    assert not select.select([door.entrance.fd], [], [], 0)[0]
    waiting, _ = door.listener.accept()  # by whoever has the listening socket next
    assert waiting.recv(100) == HEAD
    waiting.close()
    outside.close()


def test_other_bounds_hold_from_then_on_for_those_who_wait_too(door):
    silent, long = door.knock(), door.knock(HEAD[:9])
    door.settle(2)
    door.entrance.limit(head_bytes=20, patience_ms=500, max_descriptors=1 << 20)
    long.sendall(b"x" * 30)
    [(descriptor, received)] = door.poll()
    assert received == HEAD[:9] + b"x" * 30
    os.close(descriptor)
    assert door.entrance.expire(400) == 0
    assert door.entrance.expire(500) == 1
    assert is_gone(silent)
    for head_bytes in (0, 1 << 24):
        with pytest.raises(ValueError, match="head_bytes"):
            door.entrance.limit(head_bytes=head_bytes, patience_ms=1, max_descriptors=1)


@pytest.mark.parametrize("pieces", [(b"\x16\x03\x01",), (b"\x16",)])
def test_tls_start_is_handed_up_at_once(door, pieces):
    client = door.knock()
    door.settle(1)
    for piece in pieces:
        client.sendall(piece)
    [(descriptor, received)] = door.poll()
    assert received == b"".join(pieces)
    os.close(descriptor)
    early = door.knock(b"\x16\x03")
    [(descriptor, received)] = door.poll()
    assert received == b"\x16\x03"
    os.close(descriptor)
    early.close()


def test_an_entrance_that_is_let_go_of_closes_what_it_holds(door):
    slow = door.knock(b"GET")
    door.settle(1)
    del door.entrance
    assert is_gone(slow)


@pytest.mark.parametrize(("max_waiting", "head_bytes"), [(0, 1000), (100, 1 << 24)])
def test_senseless_bounds_are_refused(max_waiting, head_bytes):
    with pytest.raises(ValueError, match="reasonable"):
        Entrance(0, max_waiting=max_waiting, head_bytes=head_bytes, patience_ms=1, crowded_ms=1, max_descriptors=1)
