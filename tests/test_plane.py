"""The plane, against real sockets: what goes in comes out, whole and in order, however the peer reads and writes.

Each test is run twice: with sockets of the plane's own, and with those that tasks carry (TLS): one rule for both."""

from __future__ import annotations

import gc
import os
import select
import socket
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage

from ext.log.ring import EPHEMERAL, Ring
from ext.log.stream import Stream
from ext.net.plane import BEHIND, BINARY, DRAINED, GONE, TEXT, VIOLATION, Plane
from ext.net.socket import Socket
from ext.wire.frame import encode_frame
from tests.sealed import SealedPlane

T0 = 1_700_000_000_000


PEERS = []


@pytest.fixture(autouse=True)
def closed_peers():
    yield
    while PEERS:
        PEERS.pop().socket.close()


class FarEnd:
    """A client of one plain socket, with wsproto as its codec."""

    def __init__(self, plane, owner, *, msgpack=False, heartbeats=False, send_buffer=None):
        ours, self.socket = tcp_pair()
        if send_buffer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, send_buffer)
        self.socket.setblocking(False)
        PEERS.append(self)
        self.codec = Connection(ConnectionType.CLIENT)
        self.events = []
        self.parts = []
        self.eof = False
        self.handle = plane.add(ours.detach(), owner, msgpack=msgpack, heartbeats=heartbeats, now_ms=T0)

    def send(self, event):
        self.socket.sendall(self.codec.send(event))

    def receive(self):
        """What has arrived by now; messages put together."""
        while not self.eof:
            try:
                data = self.socket.recv(1 << 20)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            self.eof = not data
            if data:
                self.codec.receive_data(data)
                self.events += self.codec.events()
        events, self.events = self.events, []
        return events

    def texts(self):
        texts = []
        for event in self.receive():
            if isinstance(event, Message):
                self.parts.append(event.data)
                if event.message_finished:
                    texts.append(("" if isinstance(event, TextMessage) else b"").join(self.parts))
                    self.parts = []
        return texts


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        accepted.setblocking(False)
        return accepted, client


TIMES = {"max_message": 1 << 20, "heartbeat_ms": 10_000, "ping_ms": 20_000, "lost_ms": 40_000, "linger_ms": 5_000}


PLANES = pytest.mark.parametrize("make", [Plane, SealedPlane], ids=["plain", "tls"])


@pytest.fixture(params=[Plane, SealedPlane], ids=["plain", "tls"])
def make(request):
    return request.param


@pytest.fixture
def plane(make):
    plane = make(**TIMES)
    yield plane
    plane.close()


@pytest.fixture
def sliced(make):
    """A plane that sends to two readers, then lets others have a turn."""
    plane = make(**TIMES, sends_a_slice=2)
    yield plane
    plane.close()


def poll(plane, now=T0, want=1):
    """Poll until there are so many events; loopback delivers at once, but not before the other side's call returns."""
    events = []
    for _ in range(1000):
        events += plane.poll(now)
        if len(events) >= want:
            break
        select.select([plane.fd], [], [], 0.01)
    return events


def flush(plane):
    while plane.flush():
        pass


def read_until_told(plane, peer):
    """The plane's first events, and what the peer has read before them."""
    events, texts = [], []
    for _ in range(100_000):
        texts += peer.texts()
        events += plane.poll(T0)
        flush(plane)
        if events:
            break
        select.select([plane.fd], [], [], 0.01)
    return events, texts


def test_messages_come_up_in_order_with_their_kind(plane):
    peer = FarEnd(plane, "me")
    peer.send(TextMessage("one"))
    peer.send(BytesMessage(b"\x00two"))
    peer.send(TextMessage(""))
    assert poll(plane, want=3) == [("me", TEXT, b"one"), ("me", BINARY, b"\x00two"), ("me", TEXT, b"")]


def test_what_was_read_with_the_handshake_is_not_lost(plane):
    codec = Connection(ConnectionType.CLIENT)
    first, second = codec.send(TextMessage("early")), codec.send(TextMessage("late"))
    peer = FarEnd(plane, "me")
    plane.feed(peer.handle, first + second[:3])
    assert select.select([plane.fd], [], [], 1)[0]  # nothing more need arrive for the plane to be polled
    assert poll(plane) == [("me", TEXT, b"early")]
    peer.socket.sendall(second[3:])
    assert poll(plane) == [("me", TEXT, b"late")]


def test_replies_leave_in_order_in_the_format_of_the_socket(plane):
    text, binary = FarEnd(plane, "t"), FarEnd(plane, "b", msgpack=True)
    for peer in (text, binary):
        peer.handle.send(b"1" * 125)
        peer.handle.send(b"2" * 70_000)
        peer.handle.send_frames(encode_frame(1, b"3"))
    flush(plane)
    assert text.texts() == ["1" * 125, "2" * 70_000, "3"]
    assert binary.texts() == [b"1" * 125, b"2" * 70_000, "3"]


def test_a_ping_is_answered(plane):
    peer = FarEnd(plane, "me")
    peer.send(Ping(b"are you there"))
    poll(plane, want=0)
    select.select([plane.fd], [], [], 0.2)
    plane.poll(T0)
    flush(plane)
    assert [bytes(event.payload) for event in peer.receive() if isinstance(event, Pong)] == [b"are you there"]


def test_the_peers_close_is_answered_and_told(plane):
    peer = FarEnd(plane, "me")
    peer.send(CloseConnection(1001, "bye"))
    assert poll(plane) == [("me", GONE, "closed by the peer")]
    flush(plane)
    assert [event.code for event in peer.receive() if isinstance(event, CloseConnection)] == [1001]
    assert peer.eof
    peer.socket.close()
    poll(plane, want=0)
    select.select([plane.fd], [], [], 1)
    plane.poll(T0)
    assert len(plane) == 0


def test_a_lost_connection_is_told_once(plane):
    peer = FarEnd(plane, "me")
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()
    [(owner, kind, _)] = poll(plane)
    assert (owner, kind) == ("me", GONE)
    assert len(plane) == 0
    peer.handle.send(b"to nobody")
    flush(plane)
    assert plane.poll(T0) == []


@pytest.mark.parametrize(
    "frame,code",
    [
        (b"\xff\x80\0\0\0\0", 1002),
        (b"\x81\x05hello", 1002),
        (b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0", 1009),
        (b"\x81\x81\0\0\0\0\xff", 1007),
    ],
)
def test_garbage_is_told_with_its_code_and_concerns_nobody_else(plane, frame, code):
    bad, good = FarEnd(plane, "bad"), FarEnd(plane, "good")
    bad.socket.sendall(frame)
    assert poll(plane) == [("bad", VIOLATION, code)]
    bad.handle.send(b"your mistake")
    bad.handle.close(code, "no")
    good.send(TextMessage("still here"))
    assert poll(plane) == [("good", TEXT, b"still here")]
    flush(plane)
    assert [e.data if isinstance(e, Message) else e.code for e in bad.receive()] == ["your mistake", code]


def test_a_paused_socket_is_not_read_until_it_is_resumed(plane):
    peer = FarEnd(plane, "me")
    peer.handle.pause()
    peer.send(TextMessage("later"))
    select.select([plane.fd], [], [], 0.05)
    assert plane.poll(T0) == []
    peer.handle.resume()
    assert poll(plane) == [("me", TEXT, b"later")]


def test_a_peer_is_silent_for_as_long_as_we_listen_in_vain(plane):
    """What is not read is our doing: after a long pause nobody is lost for it."""
    peer = FarEnd(plane, "me")
    plane.poll(T0 + 700)
    assert peer.handle.silence_ms == 700
    peer.handle.pause()
    plane.poll(T0 + 500_000)
    assert peer.handle.silence_ms == 0
    peer.handle.resume()
    plane.tick(T0 + 500_700)
    assert peer.handle.silence_ms == 700
    assert plane.poll(T0 + 500_700) == []


def test_who_leaves_replies_unread_is_not_read_from(plane):
    """Bound: the socket's own queue grows only as far as what it has asked for already."""
    peer = FarEnd(plane, "me", send_buffer=20_000)
    peer.handle.send(b"x" * (1 << 20))
    flush(plane)
    peer.send(TextMessage("one more"))
    select.select([plane.fd], [], [], 0.05)
    assert plane.poll(T0) == []
    texts = []
    for _ in range(100_000):
        texts += peer.texts()
        events = plane.poll(T0)
        flush(plane)
        if events:
            break
        select.select([plane.fd], [], [], 0.01)
    assert events == [("me", TEXT, b"one more")]


def test_drained_is_told_once_when_everything_has_left(plane):
    peer = FarEnd(plane, "me", send_buffer=20_000)
    peer.handle.send(b"x" * (1 << 20))
    peer.handle.notify_drained()
    flush(plane)
    assert plane.poll(T0) == []
    events, texts = read_until_told(plane, peer)
    assert events == [("me", DRAINED, None)]
    select.select([peer.socket], [], [], 1)
    assert texts + peer.texts() == ["x" * (1 << 20)]
    peer.handle.notify_drained()
    flush(plane)
    assert plane.poll(T0) == [("me", DRAINED, None)]


class Room:
    """A ring with one stream, numbered frames."""

    def __init__(self, plane, max_bytes=1 << 20):
        self.plane = plane
        self.ring = Ring(1 << 12, max_bytes)
        self.stream = Stream(self.ring, None)
        self.count = 0

    def publish(self, size=20, origin=0, flags=0):
        self.count += 1
        text = str(self.count).ljust(size, ".")
        self.ring.append(self.count, text, size, origin, flags)
        self.stream.append(encode_frame(1, text.encode()))
        self.plane.moved([self.stream])
        return text


def test_what_drained_asks_for_leaves_before_what_streams_hold(plane):
    """As a replay does: a batch, and once it has left the next one, until a stream holds the rest."""
    room = Room(plane)
    peer = FarEnd(plane, "me", send_buffer=20_000)
    other = FarEnd(plane, "other")
    other.handle.subscribe(room.stream, room.stream.head)  # so the stream holds what follows
    held = [room.publish(1000) for _ in range(100)]
    got, expected = [], []
    for batch in range(3):
        text = f"{batch}:".ljust(200_000, ".")
        peer.handle.send(text.encode())
        expected.append(text)
        peer.handle.notify_drained()
        if batch == 2:
            peer.handle.subscribe(room.stream, 0)  # in the same step as the last batch: it stands behind it
            expected += held
        else:
            events, texts = read_until_told(plane, peer)
            assert events == [("me", DRAINED, None)]
            got += texts
    deadline = time.monotonic() + 20
    while len(got) < len(expected) and time.monotonic() < deadline:
        plane.poll(T0)
        flush(plane)
        got += peer.texts()
        other.texts()
    assert got == expected


def test_reply_queued_during_a_stream_send_cuts_no_frame(plane):
    room = Room(plane)
    peer = FarEnd(plane, "me", send_buffer=20_000)
    peer.handle.subscribe(room.stream, 0)
    sent, got = [], []
    for n in range(60):
        sent.append(room.publish(30_000))
        flush(plane)
        peer.handle.send(b"reply %d" % n)
        got += peer.texts()
    deadline = time.monotonic() + 20
    while len(got) < 120 and time.monotonic() < deadline:
        plane.poll(T0)
        flush(plane)
        got += peer.texts()
    assert [text for text in got if text.startswith("reply")] == [f"reply {n}" for n in range(60)]
    assert [text for text in got if not text.startswith("reply")] == sent


def test_all_readers_get_the_same_bytes_once(plane):
    room = Room(plane)
    peers = [FarEnd(plane, i) for i in range(20)]
    for peer in peers:
        peer.handle.subscribe(room.stream, room.stream.head)
    sent = []
    for size in (10, 300, 5000, 70_000, 10):
        for _ in range(5):
            sent.append(room.publish(size))
        flush(plane)
    for peer in peers:
        assert peer.texts() == sent


def test_many_frames_leave_in_one_send(plane):
    room = Room(plane)
    peer = FarEnd(plane, "me")
    peer.handle.subscribe(room.stream, 0)
    before = plane.sends
    peer.handle.send(b"a reply")
    sent = ["a reply", *[room.publish(40) for _ in range(40)]]
    flush(plane)
    assert peer.texts() == sent
    assert plane.sends == before + 1


def test_entry_during_a_stream_pass_reaches_served_readers(sliced):
    room = Room(sliced)
    peers = [FarEnd(sliced, i) for i in range(5)]
    for peer in peers:
        peer.handle.subscribe(room.stream, 0)
    first = room.publish()
    assert sliced.flush()  # two of them have it
    second = room.publish()
    flush(sliced)
    assert [peer.texts() for peer in peers] == [[first, second]] * 5


def test_a_stream_that_moves_on_and_on_delays_no_other(sliced):
    busy, quiet = Room(sliced), Room(sliced)
    for i in range(5):
        FarEnd(sliced, i).handle.subscribe(busy.stream, 0)
    waiting = FarEnd(sliced, "waiting")
    waiting.handle.subscribe(quiet.stream, 0)
    busy.publish()
    sent = quiet.publish()
    for _ in range(4):
        assert sliced.flush()
        busy.publish()
    assert waiting.texts() == [sent]


def test_a_slice_has_at_least_one_send():
    with pytest.raises(ValueError, match="sends_a_slice"):
        Plane(**TIMES, sends_a_slice=0)


def test_echo_off_and_ephemeral_entries_are_passed_over(plane):
    room = Room(plane)
    peer = FarEnd(plane, "me")
    room.publish(flags=EPHEMERAL)
    kept = [room.publish()]
    reader = peer.handle.subscribe(room.stream, 0, skip_origin=7, quiet_until=room.stream.head)
    room.publish(origin=7)
    kept += [room.publish(origin=8), room.publish(flags=EPHEMERAL)]
    room.publish(origin=7)
    flush(plane)
    assert peer.texts() == kept
    assert reader.cursor == room.count  # the cursor moves past what is skipped


def test_reader_that_falls_out_of_the_stream_is_told_its_cursor(plane):
    room = Room(plane, max_bytes=100_000)
    peer = FarEnd(plane, "slow", send_buffer=20_000)
    reader = peer.handle.subscribe(room.stream, 0)
    for _ in range(4000):
        room.publish(1000)
        flush(plane)
    assert room.stream.allocated < 1_000_000
    events, texts = read_until_told(plane, peer)
    assert events == [("slow", BEHIND, reader)]
    assert not reader.active
    deadline = time.monotonic() + 20
    while len(texts) < reader.cursor and time.monotonic() < deadline:
        flush(plane)
        select.select([peer.socket], [], [], 0.1)
        texts += peer.texts()
    assert [text.rstrip(".") for text in texts] == [str(n) for n in range(1, reader.cursor + 1)]


def test_passed_frames_are_freed_and_slow_readers_keep_theirs(plane):
    """Entries stay, so whoever comes back for them is served from there."""
    gc.collect()  # frames of all streams count, those of earlier tests included
    room = Room(plane, max_bytes=256 << 20)
    fast, slow = FarEnd(plane, "fast"), FarEnd(plane, "slow", send_buffer=20_000)
    fast.handle.subscribe(room.stream, 0)
    got = 0
    for _ in range(1200):
        room.publish(60_000)
        flush(plane)
        got += len(fast.texts())
    while got < 1200:
        select.select([fast.socket], [], [], 1)
        got += len(fast.texts())
        plane.poll(T0)
        flush(plane)
    assert 256 * 1024 <= room.stream.allocated < 36 << 20
    assert len(room.ring) == 1200
    assert room.stream.place_after(0) is None
    assert room.stream.place_after(1199) is not None
    room.ring._check()
    reader = slow.handle.subscribe(room.stream, room.stream.place_after(1150))
    for _ in range(100):
        room.publish(60_000)
        flush(plane)
        got += len(fast.texts())
    assert reader.active
    assert room.stream.place_after(1160) is not None
    texts, deadline = [], time.monotonic() + 20
    while len(texts) < 150 and time.monotonic() < deadline:
        select.select([slow.socket], [], [], 0.1)
        texts += slow.texts()
        got += len(fast.texts())
        plane.poll(T0)
        flush(plane)
    assert [int(text.rstrip(".")) for text in texts] == list(range(1151, 1301))


def test_a_stopped_reader_gets_nothing_more_and_others_do(plane):
    room = Room(plane)
    peers = [FarEnd(plane, i) for i in range(5)]
    readers = [peer.handle.subscribe(room.stream, 0) for peer in peers]
    first = room.publish()
    flush(plane)
    readers[1].stop()
    readers[1].stop()
    second = room.publish()
    readers[4].stop()
    flush(plane)
    assert [peer.texts() for peer in peers] == [[first, second], [first], [first, second], [first, second], [first]]
    assert room.stream.readers_now == 3
    with pytest.raises(ValueError, match="readers"):
        room.stream.close()


def test_silence_brings_heartbeats_then_pings_then_the_end(plane):
    json, msgpack, pinged = (
        FarEnd(plane, "json", heartbeats=True),
        FarEnd(plane, "msgpack", msgpack=True, heartbeats=True),
        FarEnd(plane, "pinged"),
    )
    plane.tick(T0 + 9_999)
    flush(plane)
    assert json.receive() == []
    plane.tick(T0 + 10_000)
    flush(plane)
    assert json.texts() == ['{"action":0}']
    assert msgpack.texts() == [b"\x81\xa6action\x00"]
    assert [type(event) for event in pinged.receive()] == [Ping]
    plane.tick(T0 + 20_000)
    flush(plane)
    assert sum(isinstance(event, Ping) for event in json.receive()) == 1
    pinged.send(Pong())
    select.select([plane.fd], [], [], 1)
    plane.poll(T0 + 20_100)
    plane.tick(T0 + 40_000)
    assert sorted(plane.poll(T0 + 40_000)) == [
        ("json", GONE, "no answer to pings"),
        ("msgpack", GONE, "no answer to pings"),
    ]
    assert len(plane) == 1


@pytest.mark.parametrize("count", [1, 3, 10, 23])
def test_tick_in_parts_reaches_everybody_once_a_round(plane, count):
    peers = [FarEnd(plane, str(n), heartbeats=True) for n in range(count)]
    rounds = []
    for _ in range(min(count, 5)):
        plane.tick(T0 + 10_000, parts=5)
        flush(plane)
        rounds.append([len(peer.texts()) for peer in peers])
    assert [sum(told) for told in zip(*rounds, strict=True)] == [1] * count
    assert max(sum(told) for told in rounds) <= count // 5 + 1


def test_newcomer_in_a_freed_place_has_its_tick_next_round(plane):
    peers = [FarEnd(plane, str(n), heartbeats=True) for n in range(20)]
    plane.tick(T0 + 10_000, parts=5)
    flush(plane)
    for peer in peers[::3]:
        peer.handle.abort()
    for _ in range(10):
        plane.tick(T0 + 10_000, parts=5)
        flush(plane)
    left = [peer for n, peer in enumerate(peers) if n % 3]
    assert [peer.texts() for peer in left] == [['{"action":0}']] * len(left)


def test_tick_reports_pending_output_and_has_at_least_one_part(plane):
    peer = FarEnd(plane, "me", heartbeats=True)
    assert not plane.tick(T0 + 9_999)
    assert plane.tick(T0 + 10_000)
    flush(plane)
    assert len(peer.texts()) == 1
    with pytest.raises(ValueError, match="at least 1"):
        plane.tick(T0, parts=0)


def test_a_peer_that_does_not_close_is_cut_off_after_a_while(plane):
    peer = FarEnd(plane, "me")
    peer.handle.close(1000)
    flush(plane)
    assert len(plane) == 1
    plane.tick(T0 + 5_001)
    assert len(plane) == 0
    assert [type(event) for event in peer.receive()] == [CloseConnection]


def test_a_bad_descriptor_is_refused():
    plane = Plane(**TIMES)
    read, write = os.pipe()
    os.close(write)
    os.close(read)
    with pytest.raises(OSError, match="epoll_ctl"):
        plane.add(read, "me", msgpack=False, heartbeats=False, now_ms=T0)


@PLANES
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_whatever_the_pace_every_reader_gets_an_unbroken_run(make, data):
    """Invariant: what a reader has got is what was published since it came, without its own, up to where it stands; and
    that is the head, unless it has fallen behind."""
    plane = make(**TIMES, sends_a_slice=data.draw(st.sampled_from([1, 2, 512])))
    try:
        rooms = [Room(plane, max_bytes=60_000) for _ in range(3)]
        peers = [FarEnd(plane, i, send_buffer=data.draw(st.sampled_from([None, 20_000]))) for i in range(4)]
        readers = {}
        expected = {}
        got = {peer: [] for peer in peers}
        for _ in range(data.draw(st.integers(5, 60))):
            room, peer = rooms[data.draw(st.integers(0, 2))], peers[data.draw(st.integers(0, 3))]
            step = data.draw(st.integers(0, 9))
            if step == 0 and (room, peer) not in readers:
                skip = data.draw(st.integers(0, 2))
                readers[room, peer] = (peer.handle.subscribe(room.stream, room.stream.head, skip_origin=skip), skip)
                expected[room, peer] = []
            elif step == 1:
                got[peer] += peer.texts()
            elif step == 2:
                plane.flush()
            else:
                origin = data.draw(st.integers(1, 2))
                text = f"{rooms.index(room)}:" + room.publish(data.draw(st.integers(8, 20_000)), origin)
                for (of, to), (_, skip) in readers.items():
                    if of is room and skip != origin:
                        expected[of, to].append((room.count, text))

        def due(peer):
            """What has been handed to its socket by now."""
            runs = [(readers[room, peer][0].cursor, expected[room, peer]) for room in rooms if (room, peer) in readers]
            return sorted(text.split(":", 1)[1].rstrip(".") for cursor, run in runs for n, text in run if n <= cursor)

        deadline = time.monotonic() + 20  # a small receive window opens again when the kernel thinks it is time
        while time.monotonic() < deadline:
            more = plane.flush()
            plane.poll(T0)
            for peer in peers:
                got[peer] += peer.texts()
            queued = any(peer.handle.queued for peer in peers)
            # A socket may be blocked between two frames: nothing is queued then, and its readers are not at the head.
            read_on = all(
                reader.cursor == room.count or not reader.active for (room, _), (reader, _) in readers.items()
            )
            if read_on and not more and not queued and all(len(got[peer]) >= len(due(peer)) for peer in peers):
                break
        for peer in peers:
            assert sorted(text.rstrip(".") for text in got[peer]) == due(peer)
        for (room, _), (reader, _) in readers.items():
            assert reader.cursor == room.count or not reader.active
    finally:
        plane.close()
        while PEERS:
            PEERS.pop().socket.close()


def test_a_socket_that_no_plane_made_is_a_closed_one():
    alone = Socket()
    alone.send(b"to nobody")
    alone.notify_drained()
    alone.close(1000)
    alone.abort()
    reader = alone.subscribe(Stream(Ring(4, 1 << 10), None), 0)
    reader.stop()
    assert alone.closed
    assert alone.queued == 0
    assert not reader.active
