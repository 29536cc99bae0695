"""Retention goes by what has passed, not by a clock that somebody has set: against a plain list with steady times."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.journal.buckets import HOUR_MS, WINDOW, bucket_length_ms, retention_ms
from engine.journal.rocks import RocksJournal
from engine.journal.store import RocksStore, StoreError
from engine.logclock import BEHIND_MS
from engine.steady import ClockNote
from tests.journals import block, read_all, serials
from tests.models.clocks import TICK_MS, Life, Machine

WINDOW_MS = 8_000
STEP_MS = bucket_length_ms(WINDOW, WINDOW_MS)
DAY_MS = 24 * HOUR_MS
CHANNELS = {"brief": "w", "kept": "p1"}
SETTINGS = (-4 * DAY_MS, -HOUR_MS, -1_500, 1_500, HOUR_MS, 4 * DAY_MS)


@dataclass
class Published:
    serial: int
    steady_ms: int


class Server:
    """A journal and the clock of whoever writes to it, and all that was ever published."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.machine = Machine()
        self.published: dict[str, list[Published]] = {channel: [] for channel in CHANNELS}
        self.off_ms = 0  # while it was off; what came just before counts as younger by up to that
        self.open()

    def open(self) -> None:
        self.journal = RocksJournal(self.path, window_ms=WINDOW_MS, boot_id=f"boot-{self.machine.boots}")
        noted = self.journal.clock_noted
        self.life = Life(self.machine, STEP_MS, self.journal.timeline, noted=ClockNote.load(noted) if noted else None)
        self.life.serials.restore(self.journal.head())
        self.life.begin()

    def publish(self, channel: str) -> None:
        serial = self.life.give()
        log = self.published[channel]
        previous = log[-1].serial if log else 0
        entry = block(channel, serial, previous=previous, retention=CHANNELS[channel], series=self.journal.series)
        self.journal.append([entry], synced=True)
        log.append(Published(serial, self.machine.steady_ms))

    def maintain(self) -> None:
        now = self.life.read()
        self.journal.maintain(now, self.life.clock.noted().dump())

    def restart(self, off_ms: int, *, same_boot: bool, crash: bool) -> None:
        self.maintain()
        if crash:
            self.journal._state.store.close()  # without the mark of an end in order
        else:
            self.journal.close()
        self.machine.passes(off_ms)
        self.off_ms = max(self.off_ms, off_ms)
        if not same_boot:
            self.machine.boots += 1
            self.machine.elapsed_ms = 1_000
        self.open()

    def check(self) -> None:
        self.maintain()
        now = self.machine.steady_ms
        for channel, retention in CHANNELS.items():
            log = self.published[channel]
            found = serials(read_all(self.journal, channel))
            assert found == [one.serial for one in log][len(log) - len(found) :], "a suffix, in order"
            kept_ms = retention_ms(retention, WINDOW_MS)
            slack_ms = bucket_length_ms(retention, WINDOW_MS) + STEP_MS + 4 * TICK_MS + self.off_ms
            for one in log:
                age = now - one.steady_ms
                assert one.serial in found or age >= kept_ms - BEHIND_MS
                assert one.serial not in found or age <= kept_ms + slack_ms
            for cursor in (0, *(one.serial for one in log[-8:])):
                if self.journal.continuous(channel, retention, cursor):
                    assert {one.serial for one in log if one.serial > cursor} <= set(found)
                elif log and cursor >= log[-1].serial:
                    assert now - log[-1].steady_ms > DAY_MS, "who has missed nothing is told so, for a day"


@pytest.fixture
def server(tmp_path):
    one = Server(tmp_path / "journal")
    yield one
    one.journal.close()


@given(data=st.data())
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
def test_retention_follows_elapsed_time_whatever_the_clock(data):
    with tempfile.TemporaryDirectory() as directory:
        one = Server(Path(directory) / "journal")
        for _ in range(data.draw(st.integers(1, 20))):
            step = data.draw(st.integers(0, 8))
            if step == 0:
                one.machine.wall_ms += data.draw(st.sampled_from(SETTINGS))
                one.life.read()
            elif step == 1:
                one.machine.stalls(data.draw(st.sampled_from((1_500, 140_000))))
                one.life.read()
            elif step == 2:
                off_ms = data.draw(st.sampled_from((0, 3_000)))
                one.restart(off_ms, same_boot=data.draw(st.booleans()), crash=data.draw(st.booleans()))
            elif step == 3:
                one.life.passes(data.draw(st.sampled_from((1_000, 5_000, 12_000))))
                one.check()
            elif step == 4:  # an hour in which little happens
                for _ in range(12):
                    one.life.passes(5 * 60_000)
                    one.maintain()
            else:
                one.publish(data.draw(st.sampled_from(sorted(CHANNELS))))
        one.life.passes(STEP_MS + 2 * TICK_MS)
        one.check()
        one.journal.close()


def test_clock_four_days_ahead_for_three_seconds_loses_nothing(server):
    for _ in range(5):
        server.publish("kept")
        server.life.passes(60_000)
    server.machine.wall_ms += 4 * DAY_MS
    server.maintain()
    server.publish("kept")
    server.life.passes(3_000)
    server.maintain()
    server.machine.wall_ms -= 4 * DAY_MS
    server.maintain()
    server.publish("kept")
    assert len(read_all(server.journal, "kept")) == 7
    server.restart(1_000, same_boot=False, crash=True)
    assert len(read_all(server.journal, "kept")) == 7
    for _ in range(80):  # it ends for all of it, also for what bears a time four days ahead
        server.life.passes(60_000)
        server.maintain()
    server.check()
    assert read_all(server.journal, "kept") == []


def test_after_a_step_back_messages_expire_and_buckets_are_few(server):
    server.publish("brief")
    server.machine.wall_ms -= 10 * DAY_MS
    for _ in range(40):
        server.publish("brief")
        server.publish("kept")
        server.life.passes(2_000)
        server.maintain()
        server.check()
    held = len(read_all(server.journal, "brief"))
    assert WINDOW_MS // 2_000 <= held <= 2 * WINDOW_MS // 2_000
    assert len([bucket for bucket in server.journal._state.table if bucket.retention == "w"]) <= 8
    assert len([bucket for bucket in server.journal._state.table if bucket.retention == "p1"]) <= 3


def test_crash_right_after_a_clock_step_keeps_ages(server):
    """The mark is written with the first entry that needs it."""
    server.publish("brief")
    server.machine.wall_ms -= DAY_MS
    server.life.read()
    server.publish("brief")
    marks = server.life.timeline.marks
    server.journal._state.store.close()
    server.machine.passes(5_000)
    server.open()
    assert server.life.timeline.marks[: len(marks)] == marks
    server.life.passes(WINDOW_MS + 4 * STEP_MS)
    server.maintain()
    assert read_all(server.journal, "brief") == []


class Failing(RocksStore):
    """The next write fails."""

    fails = False

    def write(self, rows):
        if Failing.fails:
            Failing.fails = False
            raise StoreError("IO error: no space")
        super().write(rows)


def test_marks_of_a_failed_append_are_written_with_the_next(tmp_path):
    journal = RocksJournal(tmp_path, window_ms=WINDOW_MS, open_store=Failing, boot_id="boot-0")
    life = Life(Machine(), STEP_MS, journal.timeline)
    life.machine.wall_ms += DAY_MS
    serial = life.give()
    Failing.fails = True
    with pytest.raises(Exception, match="no space"):
        journal.append([block("brief", serial, series=journal.series)], synced=True)
    journal.recover()
    assert journal.timeline.marks == life.timeline.marks
    journal.append([block("brief", serial, series=journal.series)], synced=True)
    journal.close()
    again = RocksJournal(tmp_path, window_ms=WINDOW_MS, boot_id="boot-0")
    assert again.timeline.marks == life.timeline.marks
    again.close()


def test_directory_without_steady_time_uses_the_wall_clock(tmp_path):
    journal = RocksJournal(tmp_path, window_ms=WINDOW_MS, boot_id="boot-0")
    machine = Machine()
    journal.append([block("kept", machine.wall_ms << 16, retention="p1", series=journal.series)], synced=True)
    journal.close()
    journal = RocksJournal(tmp_path, window_ms=WINDOW_MS, boot_id="boot-1")
    assert journal.clock_noted is None
    machine.passes(HOUR_MS // 2)
    life = Life(machine, STEP_MS, journal.timeline)
    assert life.read() == machine.wall_ms
    journal.maintain(life.read())
    assert len(read_all(journal, "kept")) == 1
    journal.maintain(life.read() + HOUR_MS)
    assert read_all(journal, "kept") == []
    journal.close()
