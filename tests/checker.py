"""Was every message delivered once and in order? Three kinds of logs of one channel, held against each other.

    publishers    what was sent, in the order of sending, and what the server answered     Sent
    journal       what the server has stored, oldest first (history, all pages)            Stored
    subscribers   what arrived, in the order of arrival, and when they were attached       Delivered, Attached

    journal       a  b  c  d  e  f
    subscriber      (attached after a)  b  c  | cut, attached again: resumed |  d  e  f       true
                    (attached after a)  b  c  | cut, attached again: resumed |     e  f       gap: d
                    (attached after a)  b  c  | attached again, loss told    |     e  f       true, if it may lose

A message is known by its *mark*: text that is its own in all logs, be it the id that the publisher gave or a payload
used once. Serials are the server's texts `<entry's serial>:<index>`, which sort as they count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Any

SHOWN_OF_EACH_KIND = 8  # in a report; the first ones tell, thousands of lines don't


class Outcome(Enum):
    """What a publisher knows of a message that it sent."""

    ACKED = "acked"
    NACKED = "nacked"
    UNKNOWN = "unknown"  # no answer came: stored or not, both are true


class Kind(Enum):
    """What may be wrong."""

    GAP = "gap: stored after where the subscriber attached, never delivered to it"
    REPEAT = "repeat: delivered to one subscriber more than once"
    INVERSION = "inversion: delivered after a message with a greater serial"
    PUBLISHER_ORDER = "publisher's order broken: stored before a message that its publisher had sent earlier"
    JOURNAL_ORDER = "journal's order broken: its serial is not greater than the one before it"
    ACKED_NOT_STORED = "acknowledged, not stored"
    NACKED_YET_STORED = "refused, yet stored"
    STORED_TWICE = "stored more than once"
    STORED_NOT_SENT = "stored, but nobody sent it"
    DELIVERED_NOT_STORED = "delivered, not stored"
    OTHER_SERIAL = "has another serial here than in the journal"
    WRONG_CURSOR = "delivered with a channelSerial that is not its own"
    DISCONTINUITY = "told of lost messages, where none may be lost"
    UNANSWERED = "sent, and never answered"


@dataclass(frozen=True, slots=True)
class Sent:
    """One message of a publisher; ``serial`` is what the ACK said, None if it did not say."""

    mark: str
    outcome: Outcome = Outcome.UNKNOWN
    serial: str | None = None


@dataclass(frozen=True, slots=True)
class PublisherLog:
    """Everything that one publisher sent to the channel, in its order; a message sent again is not listed again."""

    name: str
    sent: Sequence[Sent]
    all_answered: bool = False  # True: an unknown outcome is a fault


@dataclass(frozen=True, slots=True)
class Stored:
    """One message of the journal."""

    mark: str
    serial: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """One message as it arrived."""

    mark: str
    serial: str
    channel_serial: str | None = None  # None: the client library doesn't show it


@dataclass(frozen=True, slots=True)
class Attached:
    """The server said ATTACHED: with RESUMED nothing may be missing; without, what came in between is lost and told.

    ``position`` is the channelSerial after which messages follow; None: not known, the next message shows it.
    """

    resumed: bool
    position: str | None = None


@dataclass(frozen=True, slots=True)
class SubscriberLog:
    """Everything that one subscriber got on the channel, in order of arrival."""

    name: str
    events: Sequence[Attached | Delivered]
    complete: bool = True  # False: it left before the end, so nothing is said of what came after its last message
    may_lose: bool = False  # True: being told of a loss is no fault
    skips: frozenset[str] = field(default=frozenset())  # marks that it rightly doesn't get (its own, with echo off)


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    who: str
    mark: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found; true and empty of faults if the promises were kept."""

    faults: tuple[Fault, ...]
    sent: int
    acked: int
    stored: int
    delivered: int

    def kinds(self) -> set[Kind]:
        return {fault.kind for fault in self.faults}

    def __str__(self) -> str:
        head = f"{self.sent} sent, {self.acked} acknowledged, {self.stored} stored, {self.delivered} delivered"
        lines = [f"{head}: {len(self.faults)} faults" if self.faults else f"{head}: no fault"]
        for kind in Kind:
            found = [fault for fault in self.faults if fault.kind is kind]
            if found:
                lines.append(f"  {len(found)} x {kind.value}")
                for fault in found[:SHOWN_OF_EACH_KIND]:
                    lines.append(f"      {fault.who}: {fault.mark!r} {fault.detail}".rstrip())
                if len(found) > SHOWN_OF_EACH_KIND:
                    lines.append(f"      and {len(found) - SHOWN_OF_EACH_KIND} more")
        return "\n".join(lines)


def check(
    publishers: Sequence[PublisherLog], subscribers: Sequence[SubscriberLog], journal: Sequence[Stored]
) -> Report:
    """Everything that is wrong in the logs of one channel.

    Args:
        publishers: all that published to the channel; none at all = not known, and not held against the journal.
        subscribers: those to be checked.
        journal: all that is stored, oldest first.
    """
    place: dict[str, int] = {}
    for at, stored in enumerate(journal):
        place.setdefault(stored.mark, at)
    faults = list(_journal_faults(journal))
    for publisher in publishers:
        faults += _publisher_faults(publisher, journal, place)
    if publishers:
        known = {sent.mark for publisher in publishers for sent in publisher.sent}
        faults += [Fault(Kind.STORED_NOT_SENT, "journal", mark) for mark in place if mark not in known]
    for subscriber in subscribers:
        faults += _subscriber_faults(subscriber, journal, place)
    sent = [sent for publisher in publishers for sent in publisher.sent]
    delivered = sum(isinstance(event, Delivered) for subscriber in subscribers for event in subscriber.events)
    acked = sum(message.outcome is Outcome.ACKED for message in sent)
    return Report(tuple(faults), len(sent), acked, len(journal), delivered)


def _journal_faults(journal: Sequence[Stored]) -> Iterator[Fault]:
    for mark, times in Counter(stored.mark for stored in journal).items():
        if times > 1:
            yield Fault(Kind.STORED_TWICE, "journal", mark, f"{times} times")
    for before, after in pairwise(journal):
        if after.serial <= before.serial:
            yield Fault(Kind.JOURNAL_ORDER, "journal", after.mark, f"{after.serial} comes after {before.serial}")


def _publisher_faults(log: PublisherLog, journal: Sequence[Stored], place: dict[str, int]) -> Iterator[Fault]:
    furthest, furthest_mark = -1, ""
    for sent in log.sent:
        at = place.get(sent.mark)
        if sent.outcome is Outcome.UNKNOWN and log.all_answered:
            yield Fault(Kind.UNANSWERED, log.name, sent.mark)
        if at is None:
            if sent.outcome is Outcome.ACKED:
                yield Fault(Kind.ACKED_NOT_STORED, log.name, sent.mark, f"as {sent.serial}" if sent.serial else "")
            continue
        if sent.outcome is Outcome.NACKED:
            yield Fault(Kind.NACKED_YET_STORED, log.name, sent.mark, f"as {journal[at].serial}")
        if sent.serial is not None and sent.serial != journal[at].serial:
            detail = f"acknowledged as {sent.serial}, stored as {journal[at].serial}"
            yield Fault(Kind.OTHER_SERIAL, log.name, sent.mark, detail)
        if at < furthest:
            yield Fault(Kind.PUBLISHER_ORDER, log.name, sent.mark, f"sent after {furthest_mark!r}")
        else:
            furthest, furthest_mark = at, sent.mark


def _subscriber_faults(log: SubscriberLog, journal: Sequence[Stored], place: dict[str, int]) -> Iterator[Fault]:
    """Walk the log beside the journal; ``expected`` is the place in the journal of what must come next."""
    arrived = {event.mark for event in log.events if isinstance(event, Delivered)}
    expected: int | None = None  # None: the next message shows where it begins
    attached, newest = False, ""
    seen: set[str] = set()

    def missing(places: Iterable[int], when: str) -> Iterator[Fault]:
        for at in places:
            mark = journal[at].mark
            if mark not in arrived and mark not in log.skips:
                yield Fault(Kind.GAP, log.name, mark, when)

    for event in log.events:
        if isinstance(event, Attached):
            if attached and not event.resumed and not log.may_lose:
                yield Fault(Kind.DISCONTINUITY, log.name, event.position or "", f"after {newest!r}")
            if not event.resumed or not attached:
                expected = None if event.position is None else _place_after(journal, event.position)
            attached = True
            continue
        if event.mark in seen:
            yield Fault(Kind.REPEAT, log.name, event.mark, f"after {newest!r}")
            continue
        seen.add(event.mark)
        if event.channel_serial is not None and event.channel_serial != _entry(event.serial):
            yield Fault(Kind.WRONG_CURSOR, log.name, event.mark, f"{event.channel_serial} beside {event.serial}")
        at = place.get(event.mark)
        if at is None:
            yield Fault(Kind.DELIVERED_NOT_STORED, log.name, event.mark, f"as {event.serial}")
            continue
        if event.serial != journal[at].serial:
            detail = f"delivered as {event.serial}, stored as {journal[at].serial}"
            yield Fault(Kind.OTHER_SERIAL, log.name, event.mark, detail)
        if expected is not None and at < expected:
            yield Fault(Kind.INVERSION, log.name, event.mark, f"after {newest!r}")
            continue
        if expected is not None:
            yield from missing(range(expected, at), f"passed over by {event.mark!r}")
        expected, newest = at + 1, event.mark
    if log.complete and expected is not None:
        yield from missing(range(expected, len(journal)), f"after {newest!r}, the last to arrive")


def _entry(serial: str) -> str:
    """The serial of the message's entry, which is the channelSerial of its delivery."""
    return serial.rpartition(":")[0]


def _place_after(journal: Sequence[Stored], position: str) -> int:
    """The place of the first message of an entry after ``position``."""
    for at, stored in enumerate(journal):
        if _entry(stored.serial) > position:
            return at
    return len(journal)


def subscriber_log(name: str, heard: list[dict[str, Any]]) -> SubscriberLog:
    """Of the protocol messages that a subscriber heard of one channel; a message's payload is its mark."""
    events: list[Attached | Delivered] = []
    for message in heard:
        if message["action"] == 11:
            events.append(Attached(bool(message["flags"] & 4), message["channelSerial"]))
        elif message["action"] == 15:
            for member in message["messages"]:
                events.append(Delivered(member["data"], member["serial"], message["channelSerial"]))
    return SubscriberLog(name, events)
