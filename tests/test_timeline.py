"""Steady time: serials follow the wall clock and never go back; what is known of their age is what has passed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import limits
from engine.logclock import AHEAD_MS, BEHIND_MS, LogClock
from engine.steady import CAUTION_MS, ClockNote
from engine.timeline import FOREVER, Mark, Timeline
from ext.text.serial import SerialClock
from tests.models.clocks import TICK_MS, WALL, Life, Machine

STEP_MS = 1_000
DAY_MS = 86_400_000
SETTINGS = (-4 * DAY_MS, -3_600_000, -5_000, -999, -20, 15, 900, 5_000, 3_600_000, 4 * DAY_MS)
OFF_MS = 5_000
SLACK_MS = STEP_MS + AHEAD_MS + TICK_MS + OFF_MS  # the last before a restart counts as given out up to its end


def life() -> Life:
    return Life(Machine(), STEP_MS)


def check_ages(timeline, given, now):
    """Of a log whose serials were given out at these times: nothing counts as older, nor as much younger."""
    times = [*given.values(), now]
    # A mark that no serial has followed yet may be replaced by a later one: at worst, by the time of the next serial.
    following = {serial >> 16: after for serial, after in zip(given, times[1:], strict=True)}
    for serial, steady in given.items():
        ms = serial >> 16
        assert steady - BEHIND_MS <= timeline.all_by(ms + 1) <= following[ms] + SLACK_MS
        assert timeline.none_before(ms) <= steady + AHEAD_MS
        assert ms < timeline.newest_by(steady + 1) + AHEAD_MS
    for at in sorted(given.values())[:5]:
        older = timeline.older_than(at)
        for serial, steady in given.items():
            if serial >> 16 < older:
                assert steady < at + BEHIND_MS
            else:
                assert following[serial >> 16] > at - SLACK_MS


@given(data=st.data())
@settings(deadline=None)
def test_serials_grow_with_known_ages_whatever_the_clock_does(data):
    one, newest = life(), 0
    for _ in range(data.draw(st.integers(1, 25))):
        step = data.draw(st.integers(0, 6))
        if step == 0:
            one.machine.wall_ms += data.draw(st.sampled_from(SETTINGS))
            one.read()
        elif step == 1:
            one.machine.stalls(data.draw(st.sampled_from((1_200, 140_000))))
            one.read()
        elif step == 2:
            one.restart(data.draw(st.integers(0, OFF_MS)), same_boot=data.draw(st.booleans()))
        elif step == 3:
            one.passes(data.draw(st.integers(1, 12_000)))
        else:
            for _ in range(data.draw(st.integers(1, 3))):
                serial = one.give()
                assert serial > newest
                newest = serial
        now = one.read()
        assert abs(now - one.machine.steady_ms) <= AHEAD_MS + BEHIND_MS
    one.passes(STEP_MS + TICK_MS)  # serials that creep have had a mark behind them then
    check_ages(one.timeline, one.given, one.read())


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.sampled_from(SETTINGS)),
            st.tuples(st.just("stall"), st.sampled_from((1_200, 140_000))),
            st.tuples(st.just("pass"), st.integers(1, 12_000)),
            st.tuples(st.just("give"), st.sampled_from(("first", "second", "second"))),
        ),
        max_size=25,
    ),
    joins=st.integers(0, 12),
)
@settings(deadline=None)
def test_each_log_of_a_process_knows_the_age_of_its_own_serials(steps, joins):
    one, second, given = life(), LogClock(Timeline(), SerialClock(), step_ms=STEP_MS), {}
    for number, (what, value) in enumerate([*steps, ("pass", STEP_MS + TICK_MS)]):
        if number == min(joins, len(steps)):
            one.clock.join(second)
        if what == "set":
            one.machine.wall_ms += value
        elif what == "stall":
            one.machine.stalls(value)
        elif what == "pass":
            one.passes(value)
        elif value == "first" or number < joins:
            one.give()
        else:
            one.read()
            serial = second.serials.next(one.clock.wall_ms)
            assert serial > max(given, default=0)
            given[serial] = one.machine.steady_ms
        one.read()
    check_ages(one.timeline, one.given, one.read())
    check_ages(second.timeline, given, one.read())


def test_without_a_jump_steady_time_is_the_wall_clock():
    one = life()
    for _ in range(100):
        one.passes(10_000)
        one.give()
    one.restart(60_000, same_boot=True)
    one.restart(60_000, same_boot=False)
    assert one.read() == one.machine.wall_ms == one.machine.steady_ms
    assert one.timeline.marks == ((0, 0, True),)
    assert one.clock.jumps == 0


def test_four_days_ahead_for_three_seconds_ages_by_three():
    one = life()
    early = one.give()
    one.passes(2_000)
    one.machine.wall_ms += 4 * DAY_MS
    ahead = one.give()
    one.passes(3_000)
    one.machine.wall_ms -= 4 * DAY_MS
    late = one.give()
    assert early < ahead < late
    assert late >> 16 >= WALL + 4 * DAY_MS
    assert one.read() == WALL + 5_000
    assert one.timeline.all_by((early >> 16) + 1) == WALL + 1
    assert one.timeline.all_by((ahead >> 16) + 1) == WALL + 2_001
    assert one.timeline.all_by((late >> 16) + 1) == FOREVER  # another may come with this millisecond
    one.passes(STEP_MS)
    assert one.timeline.all_by((late >> 16) + 1) == WALL + 6_000
    assert (one.clock.jumps, one.clock.jumped_ms) == (2, 0)
    assert one.clock.last_jump is not None
    assert one.clock.last_jump.by_ms == -4 * DAY_MS
    assert one.clock.ahead_ms == (one.serials.last >> 16) - one.machine.wall_ms > 3 * DAY_MS


def test_small_step_after_a_large_one_is_no_return():
    """The mark of the large one is above the next serial then."""
    one = life()
    one.machine.wall_ms -= 4 * DAY_MS
    one.read()
    one.machine.wall_ms -= BEHIND_MS
    serial = one.give()
    assert one.timeline.all_by((serial >> 16) + 1) == one.machine.steady_ms + 1


def test_serials_are_paced_once_the_wall_clock_has_caught_up():
    one = life()
    one.give()
    one.machine.wall_ms -= 10_000
    for _ in range(12):
        serial = one.give()
        one.passes(1_000)
    assert one.timeline.marks[-1].paced
    assert serial >> 16 == one.machine.wall_ms - 1_000
    assert one.timeline.all_by((serial >> 16) + 1) == one.machine.steady_ms - 1_000 + 1


@pytest.mark.parametrize(("same_boot", "off_ms", "wall_by_ms", "counted_ms"), [
    (True, 60_000, 0, 60_000),
    (True, 60_000, 4 * DAY_MS, 60_000),  # exact: the machine has run on
    (True, 60_000, -4 * DAY_MS, 60_000),
    (True, 3 * DAY_MS, 0, 3 * DAY_MS),
    (False, 60_000, 0, 60_000),  # only the wall clock knows
    (False, 60_000, 4 * DAY_MS, limits.ASLEEP_MS),
    (False, 60_000, -4 * DAY_MS, 0),
])  # fmt: skip
def test_elapsed_time_over_a_restart_counts_as_far_as_known(same_boot, off_ms, wall_by_ms, counted_ms):
    one = life()
    one.give()
    before = one.read()
    one.noted = one.clock.noted()
    one.machine.passes(off_ms)
    one.machine.wall_ms += wall_by_ms
    if not same_boot:
        one.machine.boots += 1
        one.machine.elapsed_ms = 1_000
    one.begin()
    assert one.read() - before == counted_ms
    assert one.clock.jumps == (wall_by_ms != 0 and (same_boot or wall_by_ms < 0))


def test_a_stall_is_no_time_that_anything_grows_old_by():
    one = life()
    one.give()
    one.machine.stalls(140_000)
    assert one.read() == WALL
    assert one.give() >> 16 == WALL + 140_000
    assert one.clock.jumps == 0


def test_clock_at_the_end_of_time_does_not_use_up_serials():
    one = life()
    one.machine.wall_ms = (1 << 60) + 5
    assert one.give() >> 16 == WALL + limits.SERIALS_AHEAD_MS
    one.machine.wall_ms = -5
    assert one.give() >> 16 == WALL + limits.SERIALS_AHEAD_MS + 1
    one.passes(10 * STEP_MS)
    serial = one.give()
    one.passes(2 * STEP_MS)
    assert one.timeline.all_by((serial >> 16) + 1) <= one.machine.steady_ms


def test_marks_are_bounded_and_merging_ages_nothing():
    one = life()
    for n in range(3 * limits.CLOCK_MARKS):
        one.machine.wall_ms += 5_000 if n % 2 else -2_500
        one.machine.passes(1_500)
        one.give()
    assert len(one.timeline.marks) <= limits.CLOCK_MARKS
    one.passes(2 * STEP_MS)
    for serial, steady in one.given.items():
        assert one.timeline.all_by((serial >> 16) + 1) >= steady - BEHIND_MS
        assert one.timeline.none_before(serial >> 16) <= steady + AHEAD_MS


def test_pruned_marks_are_unneeded_and_the_rest_unchanged():
    timeline = Timeline([Mark(0, 0, True), Mark(5_000, 1_000, True), Mark(9_000, 7_000, False)])
    asked = [(timeline.all_by(ms), timeline.none_before(ms)) for ms in range(5_100, 9_500, 50)]
    timeline.prune(5_100)
    assert len(timeline.marks) == 2
    assert [(timeline.all_by(ms), timeline.none_before(ms)) for ms in range(5_100, 9_500, 50)] == asked
    assert timeline.all_by(100) == timeline.marks[0].steady_ms
    assert timeline.older_than(500) == 0


@pytest.mark.parametrize("content", [b"", b"x", bytes(12) + b"\x02", bytes(26)])
def test_a_damaged_timeline_is_refused(content):
    with pytest.raises(ValueError, match=r"marks|paced"):
        Timeline().load(content)


def test_what_was_noted_is_read_again():
    noted = ClockNote(1, 2, 3, "boot")
    assert ClockNote.load(noted.dump()) == noted
    assert ClockNote.load(ClockNote(1, 2, 3, "").dump()).boot_id == ""
    with pytest.raises(ValueError, match="unpack"):
        ClockNote.load(b"1 2 3")


def test_wall_clock_expiry_waits_an_hour_after_a_step_forward():
    one = life()
    assert one.clock.cautious_ms == one.machine.wall_ms
    one.machine.wall_ms += 4 * DAY_MS
    one.read()
    assert one.clock.cautious_ms == one.machine.steady_ms
    one.machine.wall_ms += DAY_MS
    one.passes(1_000)
    one.restart(2_000, same_boot=False)
    assert one.clock.cautious_ms <= one.machine.steady_ms + 5 * DAY_MS
    one.passes(CAUTION_MS)
    assert one.clock.cautious_ms == one.machine.wall_ms
    one.machine.wall_ms -= DAY_MS
    one.read()
    assert one.clock.cautious_ms == one.machine.wall_ms


def test_clock_wrong_since_boot_is_doubted_too():
    one = life()
    one.restart(0, same_boot=True)
    one.noted = one.clock.noted()
    one.machine.boots += 1
    one.machine.elapsed_ms = 1_000
    one.machine.wall_ms += 4 * DAY_MS
    one.begin()
    assert one.clock.cautious_ms <= one.machine.wall_ms - 3 * DAY_MS
