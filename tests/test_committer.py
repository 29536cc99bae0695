"""The committer, over a journal that fails in every way: each publish has one outcome, and it is the truth."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from engine import limits
from engine.errors import JournalUnavailable, NotStorable
from server.node.committer import Committer
from tests.test_sequencer import T0, awake, partition, publish, stage


class FailingJournal:
    """Keeps what it is given, unless it is told to fail; ``lies`` keeps it and fails all the same."""

    def __init__(self):
        self.kept = {}
        self.failing = 0  # appends that fail from now on
        self.lies = False
        self.refuses = set()  # channels whose blocks are not kept; where the append fails, and lies, too
        self.unopenable = self.unerasable = 0  # attempts to reopen, and to erase, that fail from now on
        self.unwritten = False  # what fails has not touched the disk, and it is known
        self.appends = 0

    def append(self, blocks, *, synced):
        self.appends += 1
        fails = self.failing > 0
        self.failing -= fails
        if not fails or self.lies:
            for block in blocks:
                for serial, _, record in block.entries if block.channel not in self.refuses else ():
                    self.kept[block.channel, serial] = record
        if fails:
            raise JournalUnavailable("no space left on device", unwritten=self.unwritten)
        refused = self.refuses & {block.channel for block in blocks}
        return dict.fromkeys(refused, NotStorable("a series has 8 characters"))

    def begin(self, blocks, *, synced, wake_fd):
        return False

    def recover(self):
        if self.unopenable:
            self.unopenable -= 1
            raise JournalUnavailable("it does not open")

    def holds(self, channel, serial):
        return (channel, serial) in self.kept

    def erase(self, channel, serials):
        if self.unerasable:
            self.unerasable -= 1
            raise JournalUnavailable("it does not take anything")
        for serial in serials:
            self.kept.pop((channel, serial), None)


class Bench:
    def __init__(self):
        self.wake_fd = os.eventfd(0)
        self.journal = FailingJournal()
        home = partition(1 << 20)
        home.journal, self.sequencer = self.journal, home.sequencer
        self.channel = awake()
        self.committer = Committer(home, lambda moved: None, self.wake_fd)
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
    nursery.start_soon(bench.turns)
    return bench


@trio.testing.trio_test
async def test_failed_batch_is_refused_and_the_next_is_stored():
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
async def test_batch_stored_despite_a_failure_is_acknowledged():
    """After a failed sync nothing is known: so the journal is asked."""
    async with trio.open_nursery() as nursery:
        bench = await started(nursery)
        bench.journal.failing, bench.journal.lies = 1, True
        told = bench.publish()
        await bench.committer.settled()
        assert told.outcomes[0][0] == "accepted"
        bench.check(told)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("first_is_refused", [False, True])
@trio.testing.trio_test
async def test_each_block_of_a_batch_has_an_outcome_of_its_own(fails, first_is_refused):
    """It is told by the append; or, if that failed, by the journal when it is asked about each of them."""
    async with trio.open_nursery() as nursery:
        bench = await started(nursery)
        other = awake("other")
        refused = bench.channel if first_is_refused else other
        bench.journal.failing, bench.journal.lies, bench.journal.refuses = int(fails), True, {refused.key}
        told = {each: stage(bench.sequencer, each, publish("x")) for each in (bench.channel, other)}
        bench.committer.turn()
        await bench.committer.settled()
        assert {each: one.outcomes[0][0] for each, one in told.items()} == {
            each: "refused" if each is refused else "accepted" for each in told
        }
        assert [len(each.ring) for each in told] == [int(each is not refused) for each in told]
        bench.journal.refuses = set()
        again = stage(bench.sequencer, refused, publish("x"))
        bench.committer.turn()
        await bench.committer.settled()
        assert again.outcomes[0][0] == "accepted", "its id is free"
        nursery.cancel_scope.cancel()


def on_a_clock_that_jumps(test):
    """The journal is tried again every second, and doubts are told after some: nobody waits for that."""

    def run(*given):
        @trio.testing.trio_test
        async def begin(autojump_clock):
            async with trio.open_nursery() as nursery:
                bench = await started(nursery)
                await test(bench, *given)
                nursery.cancel_scope.cancel()

        begin(autojump_clock=trio.testing.MockClock(autojump_threshold=0.01))

    return run


def kinds(*completions):
    return [one.outcomes[-1] if one.outcomes else None for one in completions]


async def down(bench, *, lies, tries=10**9):
    """A batch has failed, and the journal does not open again: the publish in doubt."""
    bench.journal.failing, bench.journal.lies, bench.journal.unopenable = 1, lies, tries
    told = bench.publish()
    await bench.committer.settled()
    while bench.committer.failure is None:  # noqa: ASYNC110 - it tells nobody
        await trio.sleep(0.01)
    return told


async def up(bench):
    bench.journal.unopenable = 0
    while bench.committer.failure is not None:  # noqa: ASYNC110 - it tells nobody
        await trio.sleep(0.5)


@pytest.mark.parametrize("lies", [False, True])
def test_doubt_is_answered_only_once_the_journal_can_tell(lies):
    @on_a_clock_that_jumps
    async def run(bench):
        told = await down(bench, lies=lies)
        await trio.sleep(3)
        assert kinds(told) == [None]
        await up(bench)
        assert [one[0] for one in kinds(told)] == ["accepted" if lies else "refused"]
        after = bench.publish()
        await bench.committer.settled()
        assert kinds(after)[0][0] == "accepted"
        bench.check(told, after)

    run()


@pytest.mark.parametrize("lies", [False, True])
def test_new_publish_is_refused_at_once_while_journal_is_closed(lies):
    @on_a_clock_that_jumps
    async def run(bench):
        doubtful = await down(bench, lies=lies)
        appends = bench.journal.appends
        new = [bench.publish() for _ in range(3)]
        assert kinds(*new) == [("refused", 50003)] * 3
        assert bench.journal.appends == appends  # it is not even tried
        assert bench.sequencer.common.remembered == 1, "but for what is in doubt nothing is remembered"
        await up(bench)
        bench.check(doubtful, *new)

    run()


@pytest.mark.parametrize("lies", [False, True])
def test_repeat_of_a_doubtful_publish_shares_its_outcome(lies):
    """Also when the window of ids has passed meanwhile, and others publish to the channel."""

    @on_a_clock_that_jumps
    async def run(bench):
        first = await down(bench, lies=lies)
        repeats, now = [], T0
        for _ in range(30):
            await trio.sleep(1)
            now += 20_000
            bench.channel.forget(now, (now - 120_000) << 16, 120_000)
            repeats.append(stage(bench.sequencer, bench.channel, publish(), base="AAAAAAAAAB:0", now=now))
            assert kinds(stage(bench.sequencer, bench.channel, publish("new"), now=now)) == [("refused", 50003)]
            bench.committer.turn()
        await up(bench)
        outcome = "accepted" if lies else "refused"
        told = [one.outcomes[0][0] for one in repeats]
        unknown = told.count("unknown")
        assert told == ["unknown"] * unknown + [outcome] * (30 - unknown)
        assert 20 < unknown < 30
        assert first.outcomes == [("unknown", 50003)]

    run()


def test_long_waiter_is_told_unknown_once_and_forgotten():
    @on_a_clock_that_jumps
    async def run(bench):
        told = await down(bench, lies=True)
        await trio.sleep(limits.DOUBT_SECONDS + 1.5)
        assert told.outcomes == [("unknown", 50003)]
        [entry] = bench.committer._under_way.groups[0][1]
        assert entry.completion is not told
        assert entry.followers is None
        await trio.sleep(3 * limits.DOUBT_SECONDS)
        await up(bench)
        assert told.outcomes == [("unknown", 50003)]
        assert len(bench.visible()) == 1, "it was stored"

    run()


@pytest.mark.parametrize("erasing_fails", [0, 2])
def test_what_was_in_doubt_for_too_long_is_taken_back_whole(erasing_fails):
    @on_a_clock_that_jumps
    async def run(bench):
        told = await down(bench, lies=True)
        await trio.sleep(limits.DOUBT_KEPT_SECONDS + 2)
        late = stage(bench.sequencer, bench.channel, publish(), base="AAAAAAAAAB:0")
        bench.journal.unerasable = erasing_fails
        await up(bench)
        assert kinds(told) == [("unknown", 50003)]
        assert kinds(late) in ([("refused", 50003)], [("unknown", 50003)])
        assert bench.visible() == set(bench.journal.kept) == set()
        assert bench.sequencer.common.remembered == 0
        again = stage(bench.sequencer, bench.channel, publish(), base="AAAAAAAAAB:0")
        await bench.committer.settled()
        assert kinds(again)[0][0] == "accepted", "its ids are free again"

    run()


def test_certainly_unwritten_publish_is_refused_at_once():
    @on_a_clock_that_jumps
    async def run(bench):
        bench.journal.unwritten = True
        told = await down(bench, lies=False)
        assert kinds(told) == [("refused", 50003)]
        assert bench.committer.in_doubt == 0
        await up(bench)
        after = bench.publish()
        await bench.committer.settled()
        bench.check(told, after)

    run()


def test_publishes_without_journal_continue_in_order_in_doubt():
    @on_a_clock_that_jumps
    async def run(bench):
        told = await down(bench, lies=False)
        assert kinds(told) == [None]
        channels = bench.channel, awake("free")
        ephemeral = [stage(bench.sequencer, channel, publish("e", ephemeral=True)) for channel in channels]
        bench.committer.turn()
        assert [one[0] for one in kinds(*ephemeral)] == ["refused", "accepted"], "none overtakes what is in doubt"

    run()


@trio.testing.trio_test
async def test_end_during_doubt_reports_an_unknown_outcome():
    bench = Bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.committer.run)
        nursery.start_soon(bench.turns)
        told = await down(bench, lies=True)
        assert kinds(told) == [None]
        nursery.cancel_scope.cancel()
    assert told.outcomes == [("unknown", 50003)]
    assert bench.visible() == set()


@trio.testing.trio_test
async def test_cancelled_append_under_way_tells_its_outcome():
    bench = Bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.committer.run)
        told = bench.publish()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(told.outcomes) == 1
    bench.check(told)
