"""The server's clocks: time in which it did not run counts for nobody, and a wall clock that was set is told of."""

from __future__ import annotations

import logging

import trio

from engine.logclock import LogClock
from engine.timeline import Timeline
from ext.text.serial import SerialClock
from server.node.clock import Clock, PatientClock

SECOND = 1_000_000_000


class Kernel:
    """Its clocks, as a test wants them."""

    def __init__(self):
        self.boottime_ns = 77 * SECOND
        self.wall_ms = 1_700_000_000_000
        self.torn_ns = 0  # passes between a look at one clock and at the other, once

    def passes(self, seconds):
        self.boottime_ns += int(seconds * SECOND)
        self.wall_ms += int(seconds * 1000)

    def boottime(self):
        return self.boottime_ns

    def wall(self):
        torn, self.torn_ns = self.torn_ns, 0
        self.passes(torn / SECOND)
        return self.wall_ms


def clock_of(kernel):
    patient = PatientClock(kernel.boottime)
    log = LogClock(Timeline(), SerialClock(), step_ms=1_000)
    return Clock(log, None, patient=patient, wall_ms=kernel.wall, boot_id="boot")


def test_who_sleeps_for_as_long_as_was_asked_has_not_stalled():
    kernel = Kernel()
    patient = PatientClock(kernel.boottime)
    for seconds in (0.25, 30.0, 3_600.0):
        begun = patient.current_time()
        assert patient.deadline_to_sleep_time(begun + seconds) == seconds
        kernel.passes(seconds + 0.5)  # a busy machine wakes us late
        assert patient.current_time() == begun + seconds + 0.5
    assert patient.stalls == 0


def test_oversleeping_and_late_looks_count_as_a_stall(caplog):
    kernel = Kernel()
    patient = PatientClock(kernel.boottime)
    begun = patient.current_time()
    patient.deadline_to_sleep_time(begun + 0.2)
    with caplog.at_level(logging.WARNING):
        kernel.passes(140)
        assert patient.current_time() == begun + 0.2
        kernel.passes(2)  # in the middle of work
        assert patient.current_time() == begun + 0.2
    assert (patient.stalls, patient.stalled_ns) == (2, round(141.8 * SECOND))
    assert "did not run for 139.8 s" in caplog.text


def test_deadlines_are_not_over_because_of_a_stall():
    kernel = Kernel()
    answers = []

    async def main():
        send, receive = trio.open_memory_channel(1)

        async def request():
            with trio.move_on_after(5):
                answers.append(await receive.receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(request)
            await trio.lowlevel.checkpoint()
            kernel.passes(140)  # stopped, with the answer on its way
            await trio.lowlevel.checkpoint()
            send.send_nowait("in time")

    trio.run(main, clock=PatientClock(kernel.boottime))
    assert answers == ["in time"]


def test_a_stall_ages_nothing_and_a_jump_is_told_once(caplog):
    kernel = Kernel()
    clock = clock_of(kernel)
    steady = clock.read().steady_ms
    with caplog.at_level(logging.WARNING):
        kernel.passes(140)
        assert clock.read().steady_ms == steady
        assert clock.read().wall_ms == kernel.wall_ms
        for _ in range(3):
            kernel.wall_ms += 345_600_000 if clock.steady.jumps == 0 else 0
            kernel.passes(0.2)
            clock.read()
    assert clock.read().steady_ms == steady + 600
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the server did not run for 140.0 s",
        "the wall clock was set forward by 345600.0 s",
    ]
    assert caplog.records[1].facts == {"event": "clock_jump", "by_ms": 345_600_000}
    assert clock.statistics() == {
        "jumps": 1,
        "offsetMs": 345_600_000,
        "lastJump": {"byMs": 345_600_000, "to": 1_700_345_740_200},
        "serialsAheadMs": 0,
        "stalls": 1,
        "stalledMs": 140_000,
    }


def test_interrupted_clock_readings_are_repeated():
    kernel = Kernel()
    clock = clock_of(kernel)
    for interrupted in (0.9 * SECOND, 140 * SECOND):
        kernel.passes(0.2)
        kernel.torn_ns = interrupted
        clock.read()
    assert clock.steady.jumps == 0
    assert clock.patient.stalls == 1


def test_the_clocks_are_asked_however_little_has_passed():
    kernel = Kernel()
    clock = clock_of(kernel)
    kernel.passes(0.2)
    clock.read()
    kernel.passes(0.0001)
    kernel.wall_ms += 1
    assert clock.read().wall_ms == kernel.wall_ms
