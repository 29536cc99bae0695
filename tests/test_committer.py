"""The committer, over a journal that fails in every way: each publish has one outcome, and it is the truth."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from engine.errors import JournalUnavailable
from engine.sequencer import Sequencer
from ext.serial import SerialClock
from server.committer import Committer
from tests.test_sequencer import awake, publish, stage


class FailingJournal:
    """Keeps what it is given, unless it is told to fail; ``lies`` keeps it and fails all the same."""

    def __init__(self):
        self.kept = {}
        self.failing = 0  # appends that fail from now on
        self.lies = False
        self.unopenable = 0  # attempts to reopen that fail from now on
        self.appends = 0

    def append(self, blocks, *, synced):
        self.appends += 1
        fails = self.failing > 0
        self.failing -= fails
        if not fails or self.lies:
            for block in blocks:
                for serial, _, record in block.entries:
                    self.kept[block.channel, serial] = record
        if fails:
            raise JournalUnavailable("no space left on device")

    def begin(self, blocks, *, synced, wake_fd):
        return False

    def recover(self):
        if self.unopenable:
            self.unopenable -= 1
            raise JournalUnavailable("it does not open")

    def holds(self, channel, serial):
        return (channel, serial) in self.kept

    def erase(self, channel, serials):
        for serial in serials:
            self.kept.pop((channel, serial), None)


class Bench:
    def __init__(self):
        self.wake_fd = os.eventfd(0)
        self.journal = FailingJournal()
        self.sequencer = Sequencer(SerialClock(), 1 << 20)
        self.channel = awake()
        self.committer = Committer(self.journal, self.sequencer, lambda moved: None, self.wake_fd)
        self.count = 0

    async def turns(self):
        """As the plane does: a turn when the eventfd says so."""
        while True:
            await trio.lowlevel.wait_readable(self.wake_fd)
            os.eventfd_read(self.wake_fd)
            while self.committer.turn():
                pass

    def publish(self):
        told = stage(self.sequencer, self.channel, publish(), base=f"AAAAAAAAAB:{self.count}")
        self.count += 1
        self.committer.turn()
        return told

    def visible(self):
        return {entry[0] for entry in self.channel.ring.read_after(0, budget=1 << 30)[1]}

    def check(self, *completions):
        """What is visible is what is kept, and is what was accepted."""
        kept = {serial for _, serial in self.journal.kept}
        accepted = {told.outcomes[0][1] for told in completions if told.outcomes[0][0] == "accepted"}
        assert all(len(told.outcomes) == 1 for told in completions)
        assert self.visible() == kept == accepted


async def started(nursery):
    bench = Bench()
    nursery.start_soon(bench.committer.run)
    nursery.start_soon(bench.committer.recover)
    nursery.start_soon(bench.turns)
    return bench


@trio.testing.trio_test
async def test_a_batch_that_fails_is_refused_and_the_next_one_is_stored():
    async with trio.open_nursery() as nursery:
        bench = await started(nursery)
        bench.journal.failing = 1
        first = bench.publish()
        await bench.committer.settled()
        second = bench.publish()
        await bench.committer.settled()
        assert [first.outcomes[0][0], second.outcomes[0][0]] == ["refused", "accepted"]
        bench.check(first, second)
        nursery.cancel_scope.cancel()


@trio.testing.trio_test
async def test_a_batch_that_was_stored_in_spite_of_the_failure_is_acknowledged():
    """After a failed sync nothing is known: so the journal is asked."""
    async with trio.open_nursery() as nursery:
        bench = await started(nursery)
        bench.journal.failing, bench.journal.lies = 1, True
        told = bench.publish()
        await bench.committer.settled()
        assert told.outcomes[0][0] == "accepted"
        bench.check(told)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("lies", [False, True])
def test_while_the_journal_stays_closed_publishes_are_refused_and_none_of_them_shows_up_later(lies):
    @trio.testing.trio_test
    async def run(autojump_clock):
        async with trio.open_nursery() as nursery:
            bench = await started(nursery)
            bench.journal.failing, bench.journal.lies, bench.journal.unopenable = 1, lies, 3
            told = [bench.publish()]
            await bench.committer.settled()
            assert bench.committer.failure is not None
            appends = bench.journal.appends
            told.append(bench.publish())
            await bench.committer.settled()
            assert bench.journal.appends == appends  # it is not even tried
            assert [one.outcomes[0][0] for one in told] == ["refused", "refused"]
            while bench.committer.failure is not None:  # noqa: ASYNC110 - it tells nobody
                await trio.sleep(0.5)
            told.append(bench.publish())
            await bench.committer.settled()
            assert told[-1].outcomes[0][0] == "accepted"
            bench.check(*told)
            nursery.cancel_scope.cancel()

    run(autojump_clock=trio.testing.MockClock(autojump_threshold=0.01))


@trio.testing.trio_test
async def test_cancelling_while_an_append_is_under_way_tells_its_outcome():
    bench = Bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.committer.run)
        told = bench.publish()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(told.outcomes) == 1
    bench.check(told)
