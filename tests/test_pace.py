"""Work of many tasks is spread over passes of the loop: nobody is forgotten, and the quiet go first."""

from __future__ import annotations

import math
import os
import time

import pytest
import trio
import trio.lowlevel
from trio.testing import trio_test, wait_all_tasks_blocked

from server import pace as room
from server.pace import LoopPace


class Loop:
    """What the plane is for the server: a task that waits for a descriptor."""

    def __init__(self):
        self._kicks = os.eventfd(0, os.EFD_NONBLOCK)
        self.turns = []

    def kick(self):
        os.eventfd_write(self._kicks, 1)

    async def run(self):
        while True:
            await trio.lowlevel.wait_readable(self._kicks)
            os.eventfd_read(self._kicks)
            self.turns.append(time.perf_counter())

    def close(self):
        os.close(self._kicks)

    def longest_gap(self):
        return max((b - a for a, b in zip(self.turns, self.turns[1:], strict=False)), default=0.0)


def work(seconds):
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@pytest.fixture
def loop():
    made = Loop()
    yield made
    made.close()


async def paced(loop, tasks):
    """The pace, watched by trio, while these run; each is given it."""
    pace = LoopPace(loop.kick)
    async with trio.open_nursery() as background:
        background.start_soon(loop.run)
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task, pace)
        background.cancel_scope.cancel()
    return pace


@trio_test
async def test_the_loop_is_watched_only_while_somebody_asks_for_turns(loop, monkeypatch):
    monkeypatch.setattr(room, "WATCH_SECONDS", 0.02)
    pace = LoopPace(loop.kick)
    steps = []
    monkeypatch.setattr(pace, "after_task_step", steps.append, raising=True)
    await trio.sleep(0.01)
    assert not steps
    for _ in range(3):
        await pace.turn()
        await trio.sleep(0.001)
    assert steps
    await trio.sleep(0.05)
    await trio.lowlevel.checkpoint()
    before = len(steps)
    await trio.sleep(0.01)
    assert len(steps) == before
    await pace.turn()
    await trio.lowlevel.checkpoint()
    assert len(steps) > before


@trio_test
async def test_hundred_busy_tasks_leave_others_regular_turns(loop):
    done = []

    async def one(pace):
        due = 0.0
        for _ in range(3):
            due = await pace.turn(due)
            work(0.001)
            done.append(1)

    await paced(loop, [one] * 100)
    assert len(done) == 300
    assert len(loop.turns) > 60
    assert loop.longest_gap() < 0.06  # all in one pass: 100 ms


@trio_test
async def test_who_has_been_quiet_goes_before_those_who_have_not(loop):
    order = []

    async def busy(pace):
        for _ in range(5):
            await pace.turn(math.inf)
            work(0.001)
            order.append("busy")

    async def quiet(pace):
        await trio.sleep(0.03)
        await pace.turn()
        order.append("quiet")

    await paced(loop, [busy] * 50 + [quiet])
    assert order.index("quiet") < 150


@trio_test
async def test_cancelled_waiter_blocks_nobody(loop, monkeypatch):
    monkeypatch.setattr(room, "WOKEN_AT_ONCE", 1)
    done = []

    async def one(pace):
        with trio.move_on_after(0.01):
            await pace.turn(math.inf)
            work(0.002)
            done.append("hasty")

    async def other(pace):
        await pace.turn(math.inf)
        work(0.002)
        done.append("patient")

    pace = await paced(loop, [one, other] * 20)
    assert done.count("patient") == 20
    assert not pace._waiting
    assert not pace._quiet


@trio_test
async def test_without_a_loop_that_reports_passes_nobody_waits():
    pace = LoopPace(lambda: None)
    for _ in range(3):
        await pace.turn(math.inf)
    await wait_all_tasks_blocked()
