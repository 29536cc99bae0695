"""The histogram against the sorted list of the values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.load.histogram import Histogram

VALUES = st.one_of(
    st.integers(0, 5000), st.integers(0, (1 << 27) - 1), st.sampled_from([0, 2047, 2048, 4095, 4096, (1 << 27) - 1])
)


@given(values=st.lists(VALUES, min_size=1, max_size=200), percent=st.floats(0, 100), cut=st.integers(0, 200))
def test_percentiles_are_right_to_three_digits(values, percent, cut):
    whole, part = Histogram(), Histogram()
    for value in values[:cut]:
        whole.record(value)
    for value in values[cut:]:
        part.record(value)
    whole.merge(part)
    assert whole.count == len(values)
    assert whole.largest == max(values)
    assert whole.mean == pytest.approx(sum(values) / len(values))
    exact = sorted(values)[max(math.ceil(percent / 100 * len(values) - 1e-6), 1) - 1]
    found = whole.percentile(percent)
    assert exact <= found <= exact + exact / 1000
    steps = whole.steps()
    assert steps[-1] == (whole.percentile(100), len(values))
    assert [count for _, count in steps] == sorted(count for _, count in steps)
    assert all(sum(value <= step for value in values) == count for step, count in steps)


def test_value_beyond_the_scale_is_reported_as_the_maximum():
    """A report's last column is the maximum: a stall of ten minutes is none of 134 seconds."""
    histogram = Histogram()
    for value in (5, 600_000_000, 700_000_000):
        histogram.record(value)
    assert histogram.largest == 700_000_000
    assert [histogram.percentile(percent) for percent in (33, 50, 100)] == [5, 700_000_000, 700_000_000]
    assert histogram.steps() == [(5, 1), (700_000_000, 3)]


@given(value=st.integers(0, 1 << 40))
def test_of_one_value_every_percentile_is_that_value(value):
    histogram = Histogram()
    histogram.record(value)
    assert {histogram.percentile(percent) for percent in (0, 0.001, 50, 99.999, 100)} == {value}
    assert histogram.steps() == [(value, 1)]


def test_an_empty_one_and_a_cleared_one_are_alike():
    empty, cleared = Histogram(), Histogram()
    cleared.record(77)
    cleared.clear()
    for histogram in (empty, cleared):
        assert (histogram.count, histogram.largest, histogram.mean) == (0, 0, 0)
        assert histogram.percentile(99) == 0
        assert histogram.steps() == []


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan")])
def test_a_senseless_percentile_is_refused(percent):
    with pytest.raises(ValueError, match="0 to 100"):
        Histogram().percentile(percent)
