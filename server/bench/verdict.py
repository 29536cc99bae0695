"""Was it right? What every subscriber should have had, against what it had.

publishes    sent = acknowledged + refused + unanswered
a message    acknowledged: exactly once, in its publisher's order, at every subscriber of its channel
             refused: at none           unanswered: at most once"""

from __future__ import annotations

from dataclasses import dataclass, field

from ext.load import Publisher
from server.bench.client import Client
from server.bench.load import Load

MOST_EXAMPLES = 10


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
    damaged: int = 0
    stray_answers: int = 0
    lost_connections: int = 0
    failed_connections: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def correct(self) -> bool:
        """No promise was broken. (To refuse is no broken promise.)"""
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
        """Correct, and everything that was asked for was done."""
        return self.correct and not (
            self.refused or self.unanswered or self.lost_connections or self.failed_connections
        )

    def sentence(self) -> str:
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
            (self.lost_connections, "connections lost"),
            (self.failed_connections, "connections not made"),
        ]
        said = ", ".join(f"{count:,} {what}" for count, what in parts if count)
        return f"{'NOT CORRECT' if not self.correct else 'not clean'}: {said}"


def judge(load: Load) -> Verdict:
    """Of a run that has settled."""
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
    for subscriber in load.subscribers:
        if not subscriber.ready:
            continue  # its connection was lost, which is counted: nobody could deliver anything to it
        for publisher in by_channel.get(subscriber.receiver.channel, ()):
            _compare(verdict, subscriber, publisher)
    verdict.lost += tally.unlocated
    return verdict


def _compare(verdict: Verdict, subscriber: Client, publisher: Publisher) -> None:
    receiver, refused = subscriber.receiver, publisher.refused_sequences
    expected = receiver.expected(publisher.number)
    answered = publisher.answered * publisher.per_publish
    holes = [(begin, min(end, answered)) for begin, end in receiver.missing(publisher.number) if begin < answered]
    if expected < answered:
        holes.append((expected, answered))
    missing = sum(end - begin for begin, end in holes)
    excused = sum(begin <= number < end for number in refused for begin, end in holes) if refused else 0
    verdict.refused_yet_delivered += sum(number < answered for number in refused) - excused
    if missing > excused:
        verdict.lost += missing - excused
        if len(verdict.examples) < MOST_EXAMPLES:
            begin, end = next((b, e) for b, e in holes if any(number not in refused for number in range(b, e)))
            verdict.examples.append(
                f"subscriber {receiver.number} never got {begin} to {end - 1} of publisher {publisher.number}"
            )
