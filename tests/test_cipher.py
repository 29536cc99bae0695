"""TLS of the plane's sockets: records as the network brings them, and peers that break or end the session."""

from __future__ import annotations

import ssl

import pytest

from ext.net.plane import GONE, TEXT, Plane
from tests.certificates import authority
from tests.sealed import Client
from tests.test_plane import T0, TIMES, flush, poll, tcp_pair

HELLO = b"\x81\x85\x00\x00\x00\x00hello"
RECORD = 16 * 1024


class Peer:
    """A client whose records the test delivers as it likes."""

    def __init__(self, plane, owner, version=ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cadata=authority().root.decode())
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, version
        client = Client(context)
        self.tls, self.incoming, self.outgoing = client.tls, client.incoming, client.outgoing
        ours, self.socket = tcp_pair()
        self.socket.settimeout(5)
        self.handle = plane.add(ours.detach(), owner, msgpack=False, heartbeats=False, now_ms=T0, cipher=client.cipher)

    def sealed(self, plain):
        self.tls.write(plain)
        return self.outgoing.read()

    def read(self, size):
        found = b""
        while len(found) < size:
            try:
                found += self.tls.read(RECORD)
            except ssl.SSLWantReadError:
                self.incoming.write(self.socket.recv(RECORD))
        return found


@pytest.fixture
def plane():
    plane = Plane(**TIMES)
    yield plane
    plane.close()


@pytest.fixture
def peers(plane):
    made = []

    def make(*arguments):
        made.append(Peer(plane, *arguments))
        return made[-1]

    yield make
    for peer in made:
        peer.socket.close()


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


@VERSIONS
def test_record_in_pieces_is_one_message(plane, peers, version):
    peer = peers("me", version)
    events = []
    for byte in peer.sealed(HELLO) + peer.sealed(HELLO[:3]) + peer.sealed(HELLO[3:]):
        assert not events[2:]
        peer.socket.sendall(bytes([byte]))
        events += poll(plane, want=0) or plane.poll(T0, wait_us=1000)
    events += poll(plane, want=2 - len(events))
    assert events == [("me", TEXT, b"hello")] * 2


@VERSIONS
def test_many_records_at_once_are_all_their_messages(plane, peers, version):
    peer = peers("me", version)
    peer.socket.sendall(b"".join(peer.sealed(HELLO) for _ in range(300)))
    assert poll(plane, want=300) == [("me", TEXT, b"hello")] * 300


@VERSIONS
def test_long_reply_arrives_whole(plane, peers, version):
    peer = peers("me", version)
    payload = bytes(range(97, 123)) * 40_000
    peer.handle.send(payload)
    flush(plane)
    frame = b""
    peer.socket.settimeout(0.05)
    while len(frame) < len(payload) + 10:
        try:
            frame += peer.read(1)
        except TimeoutError:
            poll(plane, want=0)
            flush(plane)
    assert frame[10:] == payload


def test_waiting_output_is_sealed_together(plane, peers):
    peer = peers("me")
    for n in range(100):
        peer.handle.send(b"%02d" % n)
    flush(plane)
    records, seen = 0, b""
    while len(seen) < 400:
        try:
            seen += peer.tls.read(RECORD)
            records += 1
        except ssl.SSLWantReadError:
            peer.incoming.write(peer.socket.recv(RECORD))
    assert records == 1
    assert seen == b"".join(b"\x81\x02%02d" % n for n in range(100))


@pytest.mark.parametrize(
    "records",
    [b"\x17\x03\x03\x00\x20" + b"x" * 32, b"GET / HTTP/1.1\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28"],
    ids=["forged", "plain", "alert"],
)
def test_broken_session_ends_that_socket_alone(plane, peers, records):
    peer, other = peers("me"), peers("other")
    peer.socket.sendall(peer.sealed(HELLO) + records)
    events = poll(plane, want=2)
    assert [event[:2] for event in events] == [("me", TEXT), ("me", GONE)]
    assert events[1][2].startswith("TLS: ")
    other.socket.sendall(other.sealed(HELLO))
    assert poll(plane) == [("other", TEXT, b"hello")]
    assert len(plane) == 1


@VERSIONS
def test_announced_end_is_told_after_what_came_before(plane, peers, version):
    peer = peers("me", version)
    last = peer.sealed(HELLO)
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    peer.socket.sendall(last + peer.outgoing.read())
    assert poll(plane, want=2) == [("me", TEXT, b"hello"), ("me", GONE, "connection closed by the peer")]
    assert len(plane) == 0


def test_our_end_is_announced_after_the_close_frame(plane, peers):
    peer = peers("me")
    peer.handle.close(1000)
    flush(plane)
    assert peer.read(4) == b"\x88\x02\x03\xe8"
    while True:
        try:
            assert peer.tls.read(RECORD) == b""
            break
        except ssl.SSLWantReadError:
            peer.incoming.write(peer.socket.recv(RECORD))
    assert peer.socket.recv(1) == b""


def test_input_of_the_handshake_is_processed(plane, peers):
    """What the peer sent right behind its request has been deciphered by the handshake's task."""
    peer = peers("me")
    plane.feed(peer.handle, HELLO)
    peer.socket.sendall(peer.sealed(HELLO))
    assert poll(plane, want=2) == [("me", TEXT, b"hello")] * 2
