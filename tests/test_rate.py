"""What ext.log.rate promises: so much in a second, a burst of one second, and a wait that is neither short nor long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.log.rate import Rate
from tests.models.rate import PlainRate

NOW = 1_700_000_000_000
steps = st.lists(
    st.tuples(st.integers(-50, 3000), st.integers(1, 40), st.integers(0, 5000)), min_size=1, max_size=60
)  # ms that pass, messages, bytes


@given(messages=st.sampled_from([0, 1, 7, 1000]), data=st.sampled_from([0, 100, 65536]), steps=steps)
def test_it_admits_what_the_model_admits(messages: int, data: int, steps: list[tuple[int, int, int]]) -> None:
    rate, model, now_ms = Rate(messages, data), PlainRate(messages, data), NOW
    for elapsed, count, size in steps:
        now_ms += elapsed
        edges = [abs(used - allowed) for used, allowed in zip(model.used, model.allowed, strict=True) if allowed]
        expected = model.room(now_ms)
        edges += [abs(used - allowed) for used, allowed in zip(model.used, model.allowed, strict=True) if allowed]
        if not edges or min(edges) > 1e-6:  # there, the last bit of a double decides
            assert rate.room(now_ms) is expected
        if expected:
            rate.take(now_ms, count, size)
            model.take(now_ms, count, size)


@given(messages=st.sampled_from([1, 7, 1000]), data=st.sampled_from([0, 100, 65536]), steps=steps)
def test_after_the_named_wait_it_passes_and_just_before_not(
    messages: int, data: int, steps: list[tuple[int, int, int]]
) -> None:
    rate, now_ms = Rate(messages, data), NOW
    for elapsed, count, size in steps:
        now_ms += max(0, elapsed)
        rate.take(now_ms, count, size)
        wait_ms = rate.wait_ms(now_ms)
        assert (wait_ms == 0) is rate.room(now_ms)
        if wait_ms > 3:
            assert not rate.room(now_ms + wait_ms - 3)
            rate.room(now_ms)  # looking ahead has refilled it, and setting the clock back takes nothing
        now_ms += wait_ms
        assert rate.room(now_ms)


def test_one_second_burst_passes_and_then_the_rate() -> None:
    rate, passed = Rate(10, 0), 0
    for now_ms in range(NOW, NOW + 10_000):
        while rate.room(now_ms):
            rate.take(now_ms, 1, 100)
            passed += 1
    assert 10 + 99 <= passed <= 10 + 100


def test_publish_larger_than_the_rate_passes_and_is_paid_for() -> None:
    rate = Rate(0, 1000)
    assert rate.room(NOW)
    rate.take(NOW, 1, 10_000)
    assert 9_000 < rate.wait_ms(NOW) <= 9_002


def test_without_limits_everything_passes() -> None:
    rate = Rate(0, 0)
    assert not rate.limited
    rate.take(NOW, 1 << 40, 1 << 40)
    assert rate.room(NOW)
    assert rate.wait_ms(NOW) == 0


def test_a_limit_that_is_changed_counts_what_has_been_used() -> None:
    rate = Rate(10, 0)
    rate.take(NOW, 10, 0)
    rate.limit(20, 0)
    assert rate.room(NOW)
    rate.limit(5, 0)
    assert not rate.room(NOW)
    rate.limit(0, 0)
    assert rate.room(NOW)
    rate.limit(5, 0)
    assert rate.room(NOW), "what passed while nothing was limited is not charged"


@pytest.mark.parametrize("amount", [-1, 1 << 64])
def test_no_number_is_taken_for_another(amount: int) -> None:
    with pytest.raises(OverflowError):
        Rate(amount, 0)
