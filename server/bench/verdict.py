"""The verdict: compares what every subscriber should have received with what it received.

publishes    sent = acknowledged + refused + unanswered
a message    acknowledged: exactly once, in its publisher's order, at every subscriber of its channel
             refused: at none           unanswered: at most once"""

from __future__ import annotations

from dataclasses import dataclass, field

from ext.load.publisher import Publisher
from ext.load.ranges import Ranges
from server.bench.client import Client
from server.bench.load import Load

MAX_EXAMPLES = 10


@dataclass(slots=True)
class Verdict:
    """Numbers of messages (or deliveries of them, where subscribers are meant)."""

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    unanswered: int = 0
    delivered: int = 0
    lost: int = 0  # acknowledged, and a subscriber never got it
    repeats: int = 0
    inversions: int = 0
    refused_yet_delivered: int = 0
    unjudged: int = 0  # passed over, too many to remember which: lost, refused, or late
    damaged: int = 0
    stray_answers: int = 0
    lost_connections: int = 0
    failed_connections: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def correct(self) -> bool:
        """No promise was broken. (A refusal does not break one.)"""
        return not (
            self.lost
            or self.repeats
            or self.inversions
            or self.refused_yet_delivered
            or self.damaged
            or self.stray_answers
        )

    @property
    def clean(self) -> bool:
        """Correct, and everything that was requested was done."""
        return self.correct and not (
            self.refused or self.unanswered or self.unjudged or self.lost_connections or self.failed_connections
        )

    def sentence(self) -> str:
        if self.clean and not self.sent:
            return "correct: no connection failed or was lost; nothing was published"
        if self.clean:
            return "correct: every acknowledged message was delivered once and in order to every subscriber"
        parts = [
            (self.lost, "acknowledged but never delivered"),
            (self.repeats, "delivered twice"),
            (self.inversions, "delivered out of order"),
            (self.refused_yet_delivered, "refused, yet delivered"),
            (self.damaged, "damaged or on the wrong channel"),
            (self.stray_answers, "answers that belong to no publish"),
            (self.refused, "refused"),
            (self.unanswered, "never answered"),
            (self.unjudged, "skipped (too many gaps to tell whether they were refused)"),
            (self.lost_connections, "connections lost"),
            (self.failed_connections, "connections not made"),
        ]
        said = ", ".join(f"{count:,} {what}" for count, what in parts if count)
        return f"{'NOT CORRECT' if not self.correct else 'not clean'}: {said}"


def judge(load: Load) -> Verdict:
    """The verdict of a run that has settled."""
    tally = load.tally
    verdict = Verdict(
        delivered=tally.delivered,
        repeats=tally.repeats,
        inversions=tally.inversions,
        damaged=tally.misplaced,
        stray_answers=tally.stray_acks,
        lost_connections=load.lost_connections,
        failed_connections=load.failures,
        examples=list(tally.examples),
    )
    by_channel: dict[int, list[Publisher]] = {}
    for client in load.publishers:
        publisher = client.publisher
        assert publisher is not None
        by_channel.setdefault(publisher.number % load.options.channels, []).append(publisher)
        verdict.sent += publisher.sent * publisher.per_publish
        verdict.refused += publisher.refused * publisher.per_publish
        verdict.unanswered += (publisher.sent - publisher.answered) * publisher.per_publish
    verdict.acknowledged = verdict.sent - verdict.refused - verdict.unanswered
    pending = sum(not (client.ready or client.lost) for client in load.subscribers + load.publishers)
    if load.interrupted and pending:
        load.noted(f"{pending} connections were still being opened; it is unknown what they missed")
    else:
        verdict.failed_connections += pending  # they had all the time that there was
    for subscriber in load.subscribers:
        for publisher in by_channel.get(subscriber.receiver.channel, ()):
            _compare(verdict, subscriber, publisher)
    verdict.refused_yet_delivered = max(verdict.refused_yet_delivered - tally.unlocated, 0) + tally.refused_deliveries
    if verdict.refused:
        verdict.unjudged = tally.unlocated
    else:
        verdict.lost += tally.unlocated
    return verdict


def _compare(verdict: Verdict, subscriber: Client, publisher: Publisher) -> None:
    """One subscriber's messages of one publisher, from the first one to the last one that was answered.

    Of one that is away (which is counted) to the last one it has: nobody could deliver anything more to it."""
    receiver = subscriber.receiver
    receiver.forgive()
    expected = receiver.expected(publisher.number)
    answered = publisher.answered * publisher.per_publish
    lost = Ranges()
    for begin, end in receiver.missing(publisher.number):
        if begin < answered:
            lost.add(begin, min(end, answered))
    if subscriber.ready:
        excused = receiver.forgiven(publisher.number)
        if expected < answered:
            tail = Ranges()
            tail.add(expected, answered)
            excused += tail.subtract(publisher.refused_messages)
            for begin, end in tail:
                lost.add(begin, end)
        verdict.refused_yet_delivered += publisher.refused_messages.total - excused
    verdict.lost += lost.total
    if lost.total and len(verdict.examples) < MAX_EXAMPLES:
        begin, end = next(iter(lost))
        verdict.examples.append(
            f"subscriber {receiver.number} never got {begin} to {end - 1} of publisher {publisher.number}"
        )
