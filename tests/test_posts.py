"""Connections that publish over HTTP: each request is answered once, in order, when it is stored; or it leaves whole.

Beside the short way there is always the long one (``read_messages``, ``check_publish``, ``Sequencer.stage``), which
says what is right."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.auth.capability import Capability
from engine.auth.tokens import Identity
from ext.log.rate import Rate
from tests.posts_desk import (
    DATE,
    JSON,
    MSGPACK,
    TARGET,
    Desk,
    answers_of,
    close_all,
    pair,
    parse_answers,
    post,
    read_all,
)
from tests.test_sequencer import T0


@pytest.fixture(autouse=True)
def _closed_in_the_end():
    yield
    close_all()


def test_only_the_first_request_of_a_kind_is_checked():
    desk = Desk()
    peer = desk.connect(post({"data": "0"}))
    desk.turn()
    for n in range(1, 4):
        peer.sendall(post({"data": str(n)}))
        desk.turn()
    answers = answers_of(peer, desk)
    assert [status for status, _, _ in answers] == [201] * 4
    assert [entry[0]["data"] for entry in desk.log()] == ["0", "1", "2", "3"]
    assert [body["serials"] for _, body, _ in answers] == [[entry[0]["serial"]] for entry in desk.log()]
    assert [body["messageId"] + ":0" for _, body, _ in answers] == [entry[0]["id"] for entry in desk.log()]
    assert (len(desk.asked), desk.posts.served, desk.told) == (1, 3, 4)
    first, *others = [{name: value for name, value in headers.items() if name != "Date"} for _, _, headers in answers]
    assert all(other == first for other in others)
    assert answers[1][2]["Date"] == DATE.decode()


def test_answers_are_counted_once_for_each_permit_and_flush():
    desk = Desk()
    peers = [desk.connect() for _ in range(5)]
    peers[0].sendall(post({"data": "0"}))
    desk.turn()
    for peer in peers:
        peer.sendall(post({"data": "1"}))
    desk.turn(settle=False)
    desk.sequencer.commit(desk.sequencer.take())
    assert desk.posts.flush(lambda: DATE) == [("app1", 5)]
    assert desk.posts.flush(lambda: DATE) == []


def test_nothing_is_answered_before_it_is_stored():
    desk = Desk()
    peer = desk.connect(post({"data": "0"}))
    desk.turn(settle=False)
    desk.posts.flush(lambda: DATE)
    assert read_all(peer, desk) == (b"", False)
    desk.settle()
    peer.sendall(post({"data": "1"}))
    desk.turn(settle=False)
    desk.posts.flush(lambda: DATE)
    assert len(answers_of(peer, desk)) == 1
    desk.settle()
    assert len(answers_of(peer, desk)) == 1


def test_unstorable_publish_is_refused_and_the_connection_lives():
    desk = Desk()
    peer = desk.connect(post({"data": "0", "id": "a"}))
    desk.turn()
    for kept in (False, True):
        peer.sendall(post({"data": "1", "id": "b"}))
        desk.turn(settle=False)
        desk.settle(kept=kept)
    answers = answers_of(peer, desk)
    assert [status for status, _, _ in answers] == [201, 503, 201]
    assert answers[1][1]["error"]["code"] == 50003
    assert desk.posts.served == 2


TEXT = st.text(max_size=6) | st.sampled_from(['"', "\\", "\n\x7f", "ü✓", "x" * 40])
IDS = st.sampled_from(["a", "b:0", ":0", "ü:7", "a:0", "", 'q"'])
CLIENTS = st.sampled_from(["ann", "bob", "*", ""])
PLAIN = st.fixed_dictionaries({"data": TEXT}, optional={"name": TEXT, "encoding": st.sampled_from(["utf-8", "json"])})
ODD = st.fixed_dictionaries(
    {"data": st.none() | st.integers(-(1 << 63), (1 << 63) - 1) | TEXT | st.lists(st.integers(-9, 9), max_size=2)},
    optional={
        "clientId": CLIENTS,
        "id": IDS,
        "encoding": st.sampled_from(["base64", "", "utf-8/base64"]),
        "action": st.integers(0, 2),
        "connectionKey": st.just("k"),
        "timestamp": st.integers(0, 9),
        "extras": st.sampled_from([{}, {"ephemeral": True}, {"headers": {"a": 1}}]),
    },
)
BODIES = st.one_of(
    PLAIN,
    PLAIN,
    st.builds(lambda m, i: {**m, "id": i}, PLAIN, IDS),
    st.builds(lambda m, c: {**m, "clientId": c}, PLAIN, CLIENTS),
    st.builds(lambda m, i, n: [{**m, "id": f"{i}:{k}"} for k in range(n)], PLAIN, IDS, st.integers(1, 6)),
    st.lists(PLAIN, max_size=6),
    st.lists(ODD, max_size=3),
    ODD,
    st.sampled_from([b"", b"[", b"{}", b"null", b'{"data":"a"}x', b'{"data":1,"data":"b"}', b"\x81\xa4data\xa1\xff"]),
)
WHO = [
    Identity("app1", "app1.key1", None, True, Capability.parse('{"*":["*"]}')),
    Identity("app1", "app1.key1", "ann", False, Capability.parse('{"*":["publish"]}')),
    Identity("app1", "app1.key1", None, False, Capability.parse('{"*":["publish"]}')),
]


def plainly(desk, answers):
    """Log and answers, with ids of the server's own making as the places of what they name."""
    made = {}
    for n, entry in enumerate(desk.log()):
        for index, message in enumerate(entry):
            base = message["id"].rpartition(":")[0]
            if len(base) == 12 and message["id"].endswith(f":{index}"):
                made[base] = n
    serials = {message["serial"]: (n, k) for n, entry in enumerate(desk.log()) for k, message in enumerate(entry)}
    log = [
        [
            {name: value for name, value in message.items() if name not in ("serial", "version", "timestamp", "id")}
            | {"id": made.get(message["id"].rpartition(":")[0], message["id"])}
            for message in entry
        ]
        for entry in desk.log()
    ]
    said = []
    for status, body, headers in answers:
        if status == 201:
            name = "made" if len(body["messageId"]) == 12 and body["messageId"] not in made else body["messageId"]
            body = (made.get(name, name), [serials.get(serial) for serial in body["serials"]])
        said.append(
            (status, body, {name: value for name, value in headers.items() if name in ("Content-Type", "Vary")})
        )
    return log, said


@settings(max_examples=200, deadline=None)
@given(
    bodies=st.lists(st.tuples(BODIES, st.sampled_from([JSON, MSGPACK])), max_size=12),
    identity=st.sampled_from(WHO),
    cuts=st.lists(st.integers(0, 4000), max_size=6),
)
def test_fast_and_slow_path_give_the_same_log_and_answers(bodies, identity, cuts):
    outcomes = []
    opening = [(b'{"data":"first"}', JSON), (b"\x81\xa4data\xa5first", MSGPACK)]  # so that permits are there
    requests = b"".join(post(body, kind) for body, kind in [*opening, *bodies])
    for short in (True, False):
        desk = Desk(short=short, identity=identity)
        peer = desk.connect()
        places = sorted({0, *(cut % (len(requests) + 1) for cut in cuts), len(requests)})
        for start, end in itertools.pairwise(places):
            peer.sendall(requests[start:end])
            desk.turn()
        while desk.posts.waiting:
            desk.turn()
        received, ended = read_all(peer, desk)
        answers = parse_answers(received)
        assert len(answers) == len(opening) + len(bodies) and not ended
        outcomes.append(plainly(desk, answers))
        close_all()
        if not short:
            assert desk.posts.served == 0
    assert outcomes[0][0] == outcomes[1][0]
    for short, long in zip(outcomes[0][1], outcomes[1][1], strict=True):
        assert short == long


def test_plain_array_with_ids_takes_the_fast_path():
    desk = Desk()
    peer = desk.connect()
    for kind in (JSON, MSGPACK):
        peer.sendall(post({"data": "0"}, kind))
        desk.turn()
        for body in ([{"data": "x"}] * 3, [{"id": f"{kind}:{n}", "data": "x", "clientId": "ann"} for n in range(3)]):
            before = desk.posts.served
            peer.sendall(post(body, kind))
            desk.turn()
            assert desk.posts.served == before + 1
    assert [len(entry) for entry in desk.log()] == [1, 3, 3, 1, 3, 3]


def test_what_comes_at_once_is_answered_in_order():
    desk = Desk()
    peer = desk.connect(b"".join(post({"data": str(n), "id": f"id{n}"}) for n in range(50)))
    while len(desk.log()) < 50:
        desk.turn()
    assert [body["messageId"] for _, body, _ in answers_of(peer, desk)] == [f"id{n}" for n in range(50)]


@pytest.mark.parametrize(
    "unusual",
    [
        b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02",
        b"POST /channels/one/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        post({"data": "x"}, Connection="close"),
        post({"data": "x"}, target=TARGET + "?enveloped=false"),
        post(b"x" * 60_001),
        b"POST /channels/one/messages HTTP/1.1\r\nX: " + b"x" * 2000,
    ],
)
def test_unusual_request_leaves_whole_after_earlier_answers(unusual):
    desk = Desk()
    peer = desk.connect(post({"data": "0"}) + unusual)
    while not desk.left:
        desk.turn()
    ((descriptor, received, _),) = desk.left
    with socket.socket(fileno=descriptor) as taken:
        assert len(answers_of(peer, desk)) == 1
        rest = read_all(taken, desk)[0]
        assert received + rest == unusual
        taken.sendall(b"from others now")
        assert peer.recv(100) == b"from others now"
    assert len(desk.posts) == 0


def test_unusual_request_can_be_released_when_checked():
    desk = Desk()
    whole_request = post(b"plain", "text/plain") + b"POST"
    peer = desk.connect(whole_request)
    ((caller, *_),) = desk.posts.poll(0, T0)
    desk.posts.hand_over(caller)
    ((descriptor, received, _),) = desk.posts.take_leaving()
    socket.close(descriptor)
    assert received == whole_request
    assert peer.recv(1) == b""


def test_who_says_nothing_is_let_go_in_its_time():
    desk = Desk()
    peer = desk.connect(post({"data": "0"}))
    desk.turn()
    assert len(answers_of(peer, desk)) == 1
    for now_ms, ended in ((74_999, False), (75_000, True)):
        desk.posts.tick(now_ms)
        assert read_all(peer, desk) == (b"", ended)
    assert len(desk.posts) == 0


def test_who_is_slow_leaves_with_the_time_that_it_has_taken():
    desk = Desk()
    peer = desk.connect(post({"data": "0"}))
    desk.turn()
    begun = post({"data": "1"})[:-3]
    for at, piece in ((40_000, begun[:30]), (41_000, begun[30:])):
        desk.now_ms = at
        peer.sendall(piece)
        desk.turn()
    desk.posts.tick(41_999)
    assert not desk.posts.take_leaving()
    desk.posts.tick(42_000)
    ((descriptor, received, waited_ms),) = desk.posts.take_leaving()
    socket.close(descriptor)
    assert (received, waited_ms) == (begun, 2_000)


def test_who_waits_for_its_answer_may_wait():
    desk = Desk()
    peer = desk.connect(post({"data": "0"}))
    desk.turn(settle=False)
    desk.posts.tick(10_000_000)
    desk.settle()
    assert len(answers_of(peer, desk)) == 1


def fill(desk, peer):
    """Have it ask for so much, and read nothing, that neither side's buffers take any more; how many requests that was.
    The last of them has been sent in part."""
    request = post([{"data": ""}] * 5)
    sent, pending = 0, request
    peer.setblocking(False)
    idle = 0
    while idle < 3:
        try:
            pending = pending[peer.send(pending) :]
            idle = 0
        except BlockingIOError:
            idle += 1
        if not pending:
            sent, pending = sent + 1, request
        desk.turn()
    return sent, pending


def test_client_that_takes_no_answers_is_not_read_further():
    desk = Desk()
    peer = desk.connect()
    sent, pending = fill(desk, peer)
    answered = len(desk.log())
    assert sent - answered > 1  # some wait here and in the kernel
    assert sent < 20_000
    received = b""
    while received.count(b"]}") < sent + 1:  # it begins to take them, and gets them all, whole
        received += read_all(peer, desk)[0]
        if pending and select.select([], [peer], [], 0)[1]:
            pending = pending[peer.send(pending) :]
        desk.turn()
    assert [status for status, _, _ in parse_answers(received)] == [201] * (sent + 1)


def test_fast_sender_waits_in_the_kernel():
    desk = Desk()
    peer = desk.connect()
    peer.setblocking(False)
    request = post([{"data": ""}] * 5)
    stream, sent = request * 1000, 0
    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += peer.send(stream[sent % len(request) :])
        desk.turn()
        read_all(peer, desk)
    assert sent - len(desk.log()) * len(request) < 1 << 20
    assert len(desk.log()) >= 100


def test_request_beyond_the_read_ahead_comes_behind_another():
    desk = Desk()
    peer = desk.connect()
    large = post(b" " * 59_000 + b'{"data":"x"}', **{f"X-{n}": "x" * 100 for n in range(10)})
    peer.setblocking(False)
    pending = large * 5
    while len(desk.log()) < 5:
        with contextlib.suppress(BlockingIOError):
            pending = pending[peer.send(pending) :] if pending else b""
        desk.turn()
    assert len(answers_of(peer, desk)) == 5


def test_who_takes_no_answer_is_let_go_in_its_time():
    desk = Desk()
    fill(desk, desk.connect())
    desk.posts.tick(29_999)
    assert len(desk.posts) == 1
    desk.posts.tick(30_000)
    assert len(desk.posts) == 0


def test_an_answer_that_is_taken_in_pieces_is_whole():
    desk = Desk()
    peer = desk.connect()
    peer.setblocking(False)
    request = post([{"data": ""}] * 5)
    pending = request * 400
    received = b""
    while received.count(b"]}") < 400:
        if pending:
            with contextlib.suppress(BlockingIOError):
                pending = pending[peer.send(pending) :]
        desk.turn()
        with contextlib.suppress(BlockingIOError):
            received += peer.recv(777)
    assert [status for status, _, _ in parse_answers(received)] == [201] * 400


@pytest.mark.parametrize("half", [b"", post({"data": "2"})[:-1], b"POST /"])
def test_who_will_send_no_more_gets_its_answers_and_the_end(half):
    """Half a request leaves: there is something to be said about it."""
    desk = Desk()
    peer = desk.connect(post({"data": "0"}) + post({"data": "1"}) + half)
    peer.shutdown(socket.SHUT_WR)
    for _ in range(6):
        desk.turn()
    received, ended = read_all(peer, desk)
    assert [status for status, _, _ in parse_answers(received)] == [201, 201]
    assert ended == (not half)
    assert [held for _, held, _ in desk.left] == ([half] if half else [])
    assert len(desk.posts) == 0
    assert len(desk.log()) == 2


@pytest.mark.parametrize("half", [b"", post({"data": "2"})[:-1]])
def test_client_that_ends_early_leaves_with_its_bytes(half):
    desk = Desk()
    peer = desk.connect(half)
    desk.turn()
    peer.shutdown(socket.SHUT_WR)
    desk.turn()
    assert [held for _, held, _ in desk.left] == ([half] if half else [])
    assert len(desk.posts) == 0


def test_who_is_gone_while_it_is_stored_harms_nobody():
    desk = Desk()
    gone, here = desk.connect(post({"data": "0"})), desk.connect(post({"data": "1"}))
    desk.turn(settle=False)
    gone.close()
    desk.turn()
    desk.turn()
    assert len(answers_of(here, desk)) == 1
    assert len(desk.log()) == 2
    assert len(desk.posts) == 1


def test_only_so_many_are_taken():
    desk = Desk(most=2)
    peers = [desk.connect(), desk.connect()]
    _ours, theirs = pair()
    assert not desk.posts.take(theirs.fileno(), b"", "peer", True, 0)
    peers[0].close()
    desk.turn()
    assert desk.posts.take(theirs.detach(), b"", "peer", True, 0)


def test_revoked_or_expired_permit_is_checked_again():
    desk = Desk()
    peer = desk.connect(post({"data": "0"}))
    desk.turn()
    desk.posts.permits.revoke_all()
    peer.sendall(post({"data": "1"}))
    desk.turn()
    assert len(desk.asked) == 2
    over = Desk(good_until_ms=T0)
    peer = over.connect(post({"data": "0"}) * 2)
    while len(over.log()) < 2:
        over.turn()
    assert len(over.asked) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"Authorization": "Bearer other"},
        {"Authorization": ""},
        {"Accept": MSGPACK},
        {"Origin": "http://elsewhere"},
        {"X-Ably-ClientId": "YW5u"},
        {"X-Ably-Version": "2"},
        {"Content-Type": JSON + "; charset=utf-8"},
    ],
)
def test_any_change_in_the_head_is_checked_anew(other):
    desk = Desk()
    peer = desk.connect(post({"data": "0"}))
    desk.turn()
    keys = len({key for key, _ in desk.asked})
    fields = {"Authorization": "Bearer one"} | other
    peer.sendall(post({"data": "0"}, **fields))
    ((_, key, *_),) = desk.posts.poll(0, T0)
    assert keys == 1 and key != desk.asked[0][0]
    stranger = desk.connect(post({"data": "0"}), trusted=False)
    ((_, key, *_),) = desk.posts.poll(0, T0)
    assert key != desk.asked[0][0]
    stranger.close()


def test_a_quota_that_is_used_up_sends_the_publish_the_long_way():
    desk = Desk(key=Rate(3, 0))
    peer = desk.connect(post({"data": "0"}))
    desk.turn()
    for _ in range(5):
        peer.sendall(post({"data": "1"}))
        desk.turn()
    assert desk.posts.served == 3
    assert len(desk.asked) == 1 + 2


def test_drain_answers_requests_under_way_and_says_close():
    desk = Desk()
    idle, begun, asked = desk.connect(), desk.connect(), desk.connect()
    begun.sendall(post({"data": "0"})[:-1])
    asked.sendall(post({"data": "1"}))
    desk.turn(settle=False)
    desk.posts.drain()
    assert read_all(idle, desk) == (b"", True)
    ((descriptor, received, _),) = desk.posts.take_leaving()
    socket.close(descriptor)
    assert received == post({"data": "0"})[:-1]
    desk.settle()
    received, ended = read_all(asked, desk)
    ((status, _, headers),) = parse_answers(received)
    assert (status, headers["Connection"], ended) == (201, "close", True)
    _ours, theirs = pair()
    assert not desk.posts.take(theirs.fileno(), b"", "peer", True, 0)
    assert len(desk.posts) == 0


def test_at_the_end_every_connection_is_closed():
    desk = Desk()
    peers = [desk.connect(post({"data": "0"})), desk.connect()]
    desk.turn(settle=False)
    desk.posts.close()
    assert [read_all(peer, desk) for peer in peers] == [(b"", True)] * 2
    desk.settle()
