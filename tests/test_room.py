"""The room for what has come in part: never more than there is, and a little is left for those who come with little."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.limits import SPARE_PART, SPARE_TIMES
from ext.net.posts import Posts
from ext.net.room import Room
from tests.posts_desk import SMALL, close_all, pair, read_all

MOST = 1 << 20
WHO, SIZES = st.integers(0, 9), st.sampled_from([1 << 19, 1 << 18, 1 << 16, 4_096, 100, 0])
SPARE = MOST // SPARE_PART


@given(steps=st.lists(st.tuples(WHO, SIZES, st.sampled_from([False, False, True])), min_size=4, max_size=60))
def test_held_bytes_equal_the_granted_and_never_exceed_it(steps):
    room, held = Room(MOST), [0] * 10
    for who, more, leaves in steps:
        if room.grow(held[who], more):
            held[who] += more
        else:
            assert room.held + more > MOST - SPARE, "there was no room"
        if leaves:
            room.release(held[who])
            held[who] = 0
        assert room.held == sum(held) <= MOST


def test_smaller_bound_keeps_what_is_held_and_takes_no_more():
    room = Room(MOST)
    assert room.grow(0, MOST // 2)
    room.limit(MOST // 4)
    assert (room.held, room.short) == (MOST // 2, True)
    assert not room.grow(0, 1)
    room.release(MOST // 2)
    assert room.grow(0, MOST // 8)
    room.limit(MOST)
    assert room.grow(0, MOST // 2)


@given(size=st.integers(1, 1 << 16))
def test_filling_with_one_size_leaves_space_for_that_or_less(size):
    room = Room(MOST)
    while room.grow(0, size):
        pass
    left = MOST - room.held
    assert left > min(size, SPARE // SPARE_TIMES)
    assert room.grow(0, min(size // 8, SPARE // 16))


def half_request(size):
    return b"POST /channels/one/messages HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (size + 1) + b"x" * size


def posts_with(room, **options):
    return Posts(max_connections=10, room=room, **(SMALL | options))


def test_half_requests_count_until_whole_or_gone():
    room = Room(100_000)
    posts = posts_with(room, patience_ms=60_000)
    peers = []
    for _ in range(3):
        ours, theirs = pair()
        peers.append(ours)
        assert posts.take(theirs.detach(), half_request(40_000), "peer", True, 0)
        posts.poll(0, 0)
    assert 80_000 < room.held < 100_000
    (turned_away,) = posts.take_turned_away(10)
    assert turned_away[1].startswith(b"POST /channels/one/messages HTTP/1.1\r\n")
    assert not turned_away[2]
    posts.refuse(turned_away[0], b"HTTP/1.1 503 \r\n\r\n")
    assert read_all(peers[2], None) == (b"HTTP/1.1 503 \r\n\r\n", True)
    peers[2].sendall(b"x" * 100)  # it may still be sending
    posts.poll(1, 1)
    assert len(posts) == 3
    posts.tick(2_000)
    assert len(posts) == 2, "it has had its moment"
    peers[0].close()
    posts.poll(2_000, 0)
    posts.take_leaving()
    assert 40_000 < room.held < 50_000
    posts.close()
    assert room.held == 0
    close_all()


def test_who_comes_in_pieces_finds_room_or_not_for_each_of_them():
    room = Room(100_000)
    posts = posts_with(room)
    crowd = []
    for _ in range(4):
        ours, theirs = pair()
        crowd.append(ours)
        assert posts.take(theirs.detach(), half_request(50_000)[:1_000], "peer", True, 0)
    for ours in crowd:
        ours.sendall(b"x" * 40_000)
        posts.poll(1, 1)
    assert len(posts.take_turned_away(1)) == len(posts.take_turned_away(9)) == 1
    assert room.held <= 100_000
    posts.close()
    assert room.held == 0
    close_all()


def test_late_half_request_is_turned_away():
    room = Room(100_000)
    posts = posts_with(room, answers_late=True)
    _, theirs = pair()
    assert posts.take(theirs.detach(), half_request(40_000), "peer", True, 0)
    posts.poll(0, 0)
    posts.tick(1_999)
    assert not posts.take_turned_away(1)
    posts.tick(2_000)
    assert [late for _, _, late in posts.take_turned_away(1)] == [True]
    assert not posts.take_leaving()
    assert room.held == 0
    posts.close()
    close_all()


def test_client_that_leaves_within_a_request_leaves_no_work():
    """A crowd that has been cut off would be as many tasks."""
    room = Room(100_000)
    posts = posts_with(room, answers_late=True)
    ours, theirs = pair()
    assert posts.take(theirs.detach(), half_request(40_000), "peer", True, 0)
    posts.poll(0, 0)
    ours.close()
    posts.poll(1, 1)
    assert not posts.take_leaving()
    assert len(posts) == room.held == 0
    posts.close()
    close_all()
