"""The checker is believed everywhere else, so here it has to find every fault that is put into true logs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.checker import (
    Attached,
    Delivered,
    Kind,
    Outcome,
    PublisherLog,
    Report,
    Sent,
    Stored,
    SubscriberLog,
    check,
)

SERIES = "AbCd1234"


def entry_serial(number: int) -> str:
    return f"{1_700_000_000_000 + number:015d}-{0:05d}@{SERIES}"


@dataclass
class Logs:
    """Logs that can be changed before they are checked."""

    sent: dict[str, list[Sent]]
    journal: list[Stored]
    events: list[Attached | Delivered]
    complete: bool = True
    may_lose: bool = False
    skips: frozenset[str] = frozenset()

    def check(self) -> Report:
        publishers = [PublisherLog(name, sent) for name, sent in self.sent.items()]
        subscriber = SubscriberLog("s", self.events, self.complete, self.may_lose, self.skips)
        return check(publishers, [subscriber], self.journal)

    def deliveries(self) -> list[int]:
        return [at for at, event in enumerate(self.events) if isinstance(event, Delivered)]


@st.composite
def true_logs(draw: st.DrawFn) -> Logs:
    """What a faultless server would leave: publishers interleaved, a subscriber that is cut and resumes at times."""
    sent: dict[str, list[Sent]] = {"p": [], "q": [], "r": []}
    journal: list[Stored] = []
    entries: list[list[Stored]] = []
    for number in range(1, draw(st.integers(4, 30)) + 1):
        publisher = draw(st.sampled_from("pqr"))
        fate = draw(st.sampled_from(["acked", "acked", "acked", "unknown", "lost", "nacked"]))
        size = draw(st.sampled_from([1, 1, 1, 3]))
        serial = entry_serial(number)
        messages = [Stored(f"{publisher}-{number}-{index}", f"{serial}:{index:03d}") for index in range(size)]
        if fate in ("acked", "unknown"):
            journal += messages
            entries.append(messages)
        for message in messages:
            outcome = {"acked": Outcome.ACKED, "nacked": Outcome.NACKED}.get(fate, Outcome.UNKNOWN)
            sent[publisher].append(Sent(message.mark, outcome, message.serial if fate == "acked" else None))
    begin = draw(st.integers(0, len(entries)))
    position = entries[begin - 1][0].serial.rpartition(":")[0] if begin else entry_serial(0)
    shown = draw(st.booleans())
    events: list[Attached | Delivered] = [Attached(False, position)]
    for entry in entries[begin:]:
        if draw(st.integers(0, 4)) == 0:
            events.append(Attached(True, events[-1].channel_serial if isinstance(events[-1], Delivered) else position))
        for message in entry:
            cursor = message.serial.rpartition(":")[0] if shown else None
            events.append(Delivered(message.mark, message.serial, cursor))
    return Logs(sent, journal, events)


@given(true_logs())
def test_true_logs_pass(logs):
    report = logs.check()
    assert not report.faults, str(report)
    assert "no fault" in str(report)


def lose(logs: Logs, at: int) -> Kind:
    del logs.events[at]
    return Kind.GAP


def repeat(logs: Logs, at: int) -> Kind:
    logs.events.insert(at + 1, logs.events[at])
    return Kind.REPEAT


def swap(logs: Logs, at: int) -> Kind:
    later = next((n for n in logs.deliveries() if n > at), None)
    if later is None:
        return repeat(logs, at)
    logs.events[at], logs.events[later] = logs.events[later], logs.events[at]
    return Kind.INVERSION


def invent(logs: Logs, at: int) -> Kind:
    logs.events.insert(at, Delivered("nobody's", entry_serial(900) + ":000"))
    return Kind.DELIVERED_NOT_STORED


def renumber_delivery(logs: Logs, at: int) -> Kind:
    logs.events[at] = dataclasses.replace(logs.events[at], serial=entry_serial(900) + ":000", channel_serial=None)
    return Kind.OTHER_SERIAL


def move_cursor(logs: Logs, at: int) -> Kind:
    logs.events[at] = dataclasses.replace(logs.events[at], channel_serial=entry_serial(900))
    return Kind.WRONG_CURSOR


def tell_loss(logs: Logs, at: int) -> Kind:
    position = logs.events[at].serial.rpartition(":")[0]
    logs.events.insert(at + 1, Attached(False, position))
    return Kind.DISCONTINUITY


@pytest.mark.parametrize("plant", [lose, repeat, swap, invent, renumber_delivery, move_cursor, tell_loss])
@given(logs=true_logs(), data=st.data())
def test_a_fault_of_delivery_is_found(plant, logs, data):
    places = logs.deliveries()
    assume(places)
    kind = plant(logs, data.draw(st.sampled_from(places)))
    report = logs.check()
    assert kind in report.kinds(), report
    assert kind.value in str(report)


def store_twice(logs: Logs, at: int) -> Kind:
    logs.journal.append(Stored(logs.journal[at].mark, entry_serial(900) + ":000"))
    return Kind.STORED_TWICE


def forget(logs: Logs, at: int) -> Kind:
    mark = logs.journal.pop(at).mark
    logs.events = [event for event in logs.events if not isinstance(event, Delivered) or event.mark != mark]
    for sent in logs.sent.values():
        for n, message in enumerate(sent):
            if message.mark == mark:
                sent[n] = dataclasses.replace(message, outcome=Outcome.ACKED)
    return Kind.ACKED_NOT_STORED


def refuse(logs: Logs, at: int) -> Kind:
    mark = logs.journal[at].mark
    for sent in logs.sent.values():
        for n, message in enumerate(sent):
            if message.mark == mark:
                sent[n] = dataclasses.replace(message, outcome=Outcome.NACKED)
    return Kind.NACKED_YET_STORED


def acknowledge_otherwise(logs: Logs, at: int) -> Kind:
    mark = logs.journal[at].mark
    for sent in logs.sent.values():
        for n, message in enumerate(sent):
            if message.mark == mark:
                sent[n] = Sent(mark, Outcome.ACKED, entry_serial(901) + ":000")
    return Kind.OTHER_SERIAL


def disown(logs: Logs, at: int) -> Kind:
    mark = logs.journal[at].mark
    logs.sent = {name: [message for message in sent if message.mark != mark] for name, sent in logs.sent.items()}
    return Kind.STORED_NOT_SENT


def turn_journal(logs: Logs, at: int) -> Kind:
    logs.journal.insert(0, Stored("late", entry_serial(900) + ":000"))
    return Kind.JOURNAL_ORDER


@pytest.mark.parametrize("plant", [store_twice, forget, refuse, acknowledge_otherwise, disown, turn_journal])
@given(logs=true_logs(), data=st.data())
def test_a_fault_of_storing_is_found(plant, logs, data):
    assume(logs.journal)
    kind = plant(logs, data.draw(st.integers(0, len(logs.journal) - 1)))
    assert kind in logs.check().kinds(), logs.check()


@given(logs=true_logs(), data=st.data())
def test_publisher_stored_out_of_order_is_found(logs, data):
    stored = {message.mark for message in logs.journal}
    able = [name for name, sent in logs.sent.items() if sum(message.mark in stored for message in sent) >= 2]
    assume(able)
    sent = logs.sent[data.draw(st.sampled_from(able))]
    places = [at for at, message in enumerate(sent) if message.mark in stored]
    first, second = sorted(data.draw(st.lists(st.sampled_from(places), min_size=2, max_size=2, unique=True)))
    sent[first], sent[second] = sent[second], sent[first]
    assert Kind.PUBLISHER_ORDER in logs.check().kinds()


def message(number: int) -> Stored:
    return Stored(f"m{number}", entry_serial(number) + ":000")


def delivered(number: int) -> Delivered:
    return Delivered(f"m{number}", entry_serial(number) + ":000", entry_serial(number))


JOURNAL = [message(number) for number in range(1, 7)]


def faults_of(events: list[Attached | Delivered], **options: object) -> list[tuple[Kind, str]]:
    log = SubscriberLog("s", events, **options)  # type: ignore[arg-type]  # each test gives fitting ones
    return [(fault.kind, fault.mark) for fault in check([], [log], JOURNAL).faults]


def test_what_came_before_the_attach_is_not_missed():
    assert faults_of([Attached(False, entry_serial(4)), delivered(5), delivered(6)]) == []


def test_the_first_message_after_the_attach_is_missed():
    assert faults_of([Attached(False, entry_serial(3)), delivered(5), delivered(6)]) == [(Kind.GAP, "m4")]


def test_the_end_is_missed_unless_the_subscriber_left():
    events = [Attached(False, entry_serial(3)), delivered(4)]
    assert faults_of(events) == [(Kind.GAP, "m5"), (Kind.GAP, "m6")]
    assert faults_of(events, complete=False) == []


def test_a_subscriber_that_got_nothing_misses_everything():
    assert len(faults_of([Attached(False, entry_serial(0))])) == 6


def test_a_gap_across_a_resume_is_a_gap():
    events = [Attached(False, entry_serial(3)), delivered(4), Attached(True, entry_serial(4)), delivered(6)]
    assert faults_of(events) == [(Kind.GAP, "m5")]


def test_reported_loss_is_no_gap_where_losses_are_allowed():
    events = [Attached(False, entry_serial(2)), delivered(3), Attached(False, entry_serial(5)), delivered(6)]
    assert faults_of(events, may_lose=True) == []
    assert [kind for kind, _ in faults_of(events)] == [Kind.DISCONTINUITY]


def test_a_repeat_is_a_repeat_even_after_a_loss_was_told():
    again = Attached(False, entry_serial(4))
    events = [Attached(False, entry_serial(4)), delivered(5), again, delivered(5), delivered(6)]
    assert faults_of(events, may_lose=True) == [(Kind.REPEAT, "m5")]


def test_a_message_that_comes_late_is_an_inversion_and_no_gap():
    events = [Attached(False, entry_serial(3)), delivered(5), delivered(4), delivered(6)]
    assert faults_of(events) == [(Kind.INVERSION, "m4")]


def test_messages_not_meant_for_a_subscriber_are_not_missed():
    events = [Attached(False, entry_serial(3)), delivered(4), delivered(6)]
    assert faults_of(events, skips=frozenset({"m5"})) == []


def test_an_unknown_position_is_shown_by_the_first_message():
    assert faults_of([Attached(False), delivered(5), delivered(6)]) == []


def test_a_first_attach_that_resumes_begins_at_its_position():
    assert faults_of([Attached(True, entry_serial(4)), delivered(6)]) == [(Kind.GAP, "m5")]


def test_a_part_of_an_entry_that_is_missing_is_a_gap():
    serial = entry_serial(1)
    parts = [Stored(f"part{index}", f"{serial}:{index:03d}") for index in range(3)]
    events = [Attached(False, entry_serial(0))]
    events += [Delivered(part.mark, part.serial, serial) for part in parts if part.mark != "part1"]
    faults = check([], [SubscriberLog("s", events)], parts).faults
    assert [(fault.kind, fault.mark) for fault in faults] == [(Kind.GAP, "part1")]


def test_unanswered_message_is_a_fault_only_if_all_need_answers():
    sent = [Sent("m1")]
    assert check([PublisherLog("p", sent)], [], JOURNAL[:1]).faults == ()
    assert check([PublisherLog("p", sent, all_answered=True)], [], JOURNAL[:1]).kinds() == {Kind.UNANSWERED}


def test_a_report_names_who_and_what_and_stays_short():
    report = check([], [SubscriberLog("slow one", [Attached(False, entry_serial(0))])], JOURNAL * 4)
    text = str(report)
    assert "slow one" in text and "'m1'" in text
    assert "and " in text and len(text.splitlines()) < 40


def test_two_messages_with_one_serial_are_a_journal_fault():
    assert check([], [], [Stored("a", entry_serial(1)), Stored("b", entry_serial(1))]).kinds() == {Kind.JOURNAL_ORDER}
