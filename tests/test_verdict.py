"""The verdict of the load tester, from what receivers and publishers have seen, against a plain twin."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from ext.load.publisher import Publisher, Tally, Template
from ext.load.receiver import Receiver
from server.bench.verdict import judge

RUN = b"abcd1234"
TEMPLATE = Template(b'{"msgSerial":', b',"d":"' + b"~" * 45 + b'"}', False, RUN, 0)


class Run:
    """One publisher, some subscribers, and no network."""

    def __init__(self, subscribers=1, **bounds):
        self.tally = Tally(RUN, **bounds)
        self.publisher = Publisher(self.tally, 0, TEMPLATE, None, [])
        self.receivers = [Receiver(self.tally, n, 0, 1, 1, None) for n in range(subscribers)]

    def deliver(self, *numbers):
        for number in numbers:
            for receiver in self.receivers:
                assert receiver.offer(TEMPLATE.make(0, number, 0), False)

    def judge(self):
        return judge(
            SimpleNamespace(
                tally=self.tally,
                lost_connections=0,
                failures=0,
                publishers=[SimpleNamespace(publisher=self.publisher, ready=True)],
                subscribers=[SimpleNamespace(receiver=receiver, ready=True) for receiver in self.receivers],
                options=SimpleNamespace(channels=1),
                interrupted=False,
            )
        )


FATES = st.lists(st.tuples(st.sampled_from("ARU"), st.booleans(), st.booleans()), max_size=40)


@given(fates=FATES, data=st.data())
def test_message_is_judged_by_its_answer_and_its_arrival(fates, data):
    """Answers come in order, so what is unanswered comes last; refusals are known before or after a delivery."""
    run, unanswered = Run(), 0
    fates = sorted(fates, key=lambda fate: fate[0] == "U")
    for number, (answer, came, forgiving) in enumerate(fates):
        run.publisher.frames([0])
        if answer == "R" and data.draw(st.booleans()):
            run.publisher.refuse(number, 1)
            answer = None
        if came:
            run.deliver(number)
        if answer == "R":
            run.publisher.refuse(number, 1)
        elif answer == "A":
            run.publisher.acknowledge(number, 1)
        elif answer == "U":
            unanswered += 1
        if forgiving:
            run.receivers[0].forgive()
    verdict = run.judge()
    assert verdict.lost == sum(answer == "A" and not came for answer, came, _ in fates)
    assert verdict.refused_yet_delivered == sum(answer == "R" and came for answer, came, _ in fates)
    assert verdict.refused == sum(answer == "R" for answer, _, _ in fates)
    assert verdict.unanswered == unanswered
    assert (verdict.repeats, verdict.inversions, verdict.damaged, verdict.unjudged) == (0, 0, 0, 0)


def test_server_that_only_refuses_is_not_accused_of_loss():
    run = Run(subscribers=200)
    most = 0
    for number in range(0, 2000, 2):
        run.publisher.frames([0, 0])
        run.publisher.acknowledge(number, 1)
        run.publisher.refuse(number + 1, 1)
        run.deliver(number)
        if number % 100 == 0:
            for receiver in run.receivers:
                receiver.forgive()
        most = max(most, sum(len(receiver.missing(0)) for receiver in run.receivers[:1]))
    verdict = run.judge()
    assert verdict.correct and verdict.examples == []
    assert (verdict.refused, verdict.lost, verdict.refused_yet_delivered) == (1000, 0, 0)
    assert most <= 50  # they are let go as they become known, so that what is kept stays small


def test_refused_message_that_comes_late_counts_as_delivered():
    run = Run()
    run.publisher.frames([0, 0, 0])
    run.publisher.acknowledge(0, 1)
    run.publisher.refuse(1, 1)
    run.publisher.acknowledge(2, 1)
    run.deliver(0, 2)
    run.receivers[0].forgive()
    run.deliver(1)
    verdict = run.judge()
    assert (verdict.refused_yet_delivered, verdict.repeats, verdict.lost) == (1, 0, 0)
    assert "1 refused, yet delivered" in verdict.sentence()


def test_beyond_the_bound_of_gaps_it_says_that_it_can_not_tell():
    lossy = Run(max_ranges=10)
    for number in range(0, 60, 2):
        lossy.publisher.frames([0, 0])
        lossy.publisher.acknowledge(number, 2)
        lossy.deliver(number)
    assert lossy.judge().lost == 30
    refusing = Run(max_ranges=10)
    for number in range(0, 60, 2):
        refusing.publisher.frames([0, 0])
        refusing.publisher.acknowledge(number, 1)
        refusing.deliver(number)
        refusing.publisher.refuse(number + 1, 1)
    verdict = refusing.judge()
    assert verdict.correct and not verdict.clean
    assert "too many gaps" in verdict.sentence()
