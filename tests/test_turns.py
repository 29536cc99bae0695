"""Places that are few: who waits for one is let in by turns of whom it is for, whoever gives up or has gone."""

from __future__ import annotations

import itertools

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

from engine.errors import PubSubError
from server.http.serving import _Connection
from server.rest.turns import Turns
from tests.test_plane import tcp_pair


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


async def hold(turns, whose, log, *, has_left=lambda: False):
    async with turns.of(whose, has_left):
        log.append(whose)
        await trio.sleep(1)


@trio_test
async def test_one_request_does_not_wait_for_all_of_anothers(autojump_clock):
    turns, log = Turns(2), []
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(hold, turns, "greedy", log)
        await wait_all_tasks_blocked()
        nursery.start_soon(hold, turns, "modest", log)
        await trio.sleep(2.5)
        assert "modest" in log[:6]
    assert (log.count("greedy"), log.count("modest"), len(turns)) == (100, 1, 0)


@trio_test
async def test_departed_waiter_is_skipped_for_the_next(autojump_clock):
    turns, log = Turns(1), []

    async def gone():
        with pytest.raises(PubSubError):
            await hold(turns, "gone", log, has_left=lambda: True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, turns, "first", log)
        await wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(gone)
        await wait_all_tasks_blocked()
        nursery.start_soon(hold, turns, "last", log)
    assert log == ["first", "last"]


@settings(deadline=None)
@given(
    most=st.integers(1, 3),
    asked=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.5, 1.5, 99])), max_size=20),
)
def test_there_are_never_more_than_so_many_and_no_place_is_lost(most, asked):
    """Invariant: whoever is cancelled, waiting or in, the places stay as many as there were."""
    turns, inside, log = Turns(most), 0, []

    async def one(whose, begin, patience):
        nonlocal inside
        await trio.sleep(begin / 2)
        with trio.move_on_after(patience):
            async with turns.of(whose):
                inside += 1
                assert inside <= most
                try:
                    await trio.sleep(1)
                    log.append(whose)
                finally:
                    inside -= 1

    async def main():
        async with trio.open_nursery() as nursery:
            for whose, begin, patience in asked:
                nursery.start_soon(one, whose, begin, patience)
        async with trio.open_nursery() as nursery:
            for _ in range(most):
                nursery.start_soon(one, "again", 0, 99)
            await wait_all_tasks_blocked()
            assert inside == most

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert len(turns) == 0
    assert len(log) >= most + sum(patience == 99 for *_, patience in asked)


def test_places_are_given_in_rounds():
    turns, log = Turns(1), []

    async def main():
        async with trio.open_nursery() as nursery:
            for whose in "aaaaabbc":
                nursery.start_soon(hold, turns, whose, log)
                await wait_all_tasks_blocked()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert "".join(log) == "aabcabaa"
    assert [len(list(run)) for _, run in itertools.groupby(log)] == [2, 1, 1, 1, 1, 2]


@trio_test
async def test_a_peer_that_has_closed_its_end_is_known_to_have_left():
    ours, theirs = tcp_pair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    asked = _Connection.__new__(_Connection)
    asked._stream = stream
    assert not asked._has_left()
    theirs.close()
    with trio.fail_after(5):
        while not asked._has_left():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.001)
    await stream.aclose()
