"""Ranges against a plain set of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.load.ranges import Ranges

STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=30)  # a hole, then so many numbers
NUMBERS = st.lists(st.integers(0, 120), max_size=40)


def made(steps):
    ranges, model, at = Ranges(), set(), 0
    for hole, length in steps:
        ranges.add(at + hole, at + hole + length)
        model |= set(range(at + hole, at + hole + length))
        at += hole + length
    return ranges, model


def check(ranges, model):
    held = list(ranges)
    assert len(ranges) == len(held)
    assert {n for begin, end in held for n in range(begin, end)} == model
    assert ranges.total == len(model)
    assert all(begin < end for begin, end in held)
    assert all(held[i][1] < held[i + 1][0] for i in range(len(held) - 1))
    assert [n in ranges for n in range(130)] == [n in model for n in range(130)]


@given(steps=STEPS, removed=NUMBERS)
def test_numbers_go_one_by_one_from_anywhere(steps, removed):
    ranges, model = made(steps)
    for number in removed:
        assert ranges.remove(number) == (number in model)
        model.discard(number)
        check(ranges, model)


@given(ours=STEPS, theirs=STEPS, removed=NUMBERS)
def test_ranges_of_another_can_be_removed_and_more_added(ours, theirs, removed):
    (ranges, model), (other, others) = made(ours), made(theirs)
    for number in removed:
        other.remove(number)
        others.discard(number)
    assert ranges.subtract(other) == len(model & others)
    check(ranges, model - others)
    check(other, others)
    ranges.add(1000, 1002)
    assert ranges.total == len(model - others) + 2


@pytest.mark.parametrize("added", [(5, 5), (4, 6), (9, 3)])
def test_what_is_empty_or_not_behind_the_others_is_refused(added):
    ranges = Ranges()
    ranges.add(3, 5)
    with pytest.raises(ValueError, match="not behind"):
        ranges.add(*added)
    check(ranges, {3, 4})
