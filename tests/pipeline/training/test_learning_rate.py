"""Everything that changes over a run is a function of its progress."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everview.pipeline.training.learning_rate import Budget, Ramp, RateSchedule, constant

SHARES = st.floats(0, 1)


@given(SHARES, SHARES, st.integers(0, 500), st.integers(0, 1000))
def test_factor_stays_between_zero_and_one(progress, cooldown, warm_up, step):
    factor = RateSchedule(warm_up, cooldown).factor(step, progress)
    assert 0 <= factor <= 1


@given(st.floats(0.01, 1))
def test_a_run_of_any_length_ends_at_the_floor(cooldown):
    schedule = RateSchedule(warm_up_steps=0, cooldown=cooldown, floor=0.05)
    assert schedule.factor(10**6, 1.0) == pytest.approx(0.05)
    assert schedule.factor(0, 0.0) == pytest.approx(1.0)


def test_rate_rises_in_steps_stays_and_falls_linearly():
    schedule = RateSchedule(warm_up_steps=10, cooldown=0.5)
    assert schedule.factor(0, 0.0) == pytest.approx(0.1)
    assert [schedule.factor(50, p) for p in (0.2, 0.5)] == [1.0, 1.0]
    assert schedule.factor(50, 0.75) == pytest.approx(0.5)
    assert not schedule.is_cooling(0.5)
    assert schedule.is_cooling(0.51)


def test_progress_is_steps_or_seconds_whichever_the_budget_counts():
    assert Budget(steps=200).progress(50, elapsed_s=1e9) == 0.25
    assert Budget(seconds=20).progress(10**9, elapsed_s=5) == 0.25
    assert Budget(seconds=20).progress(0, elapsed_s=21) == 1.0


@pytest.mark.parametrize("given_both", [{}, {"steps": 1, "seconds": 1.0}, {"steps": 0}])
def test_a_budget_is_one_positive_number(given_both):
    with pytest.raises(ValueError, match="budget"):
        Budget(**given_both)


@given(SHARES, SHARES)
def test_ramp_lies_between_its_ends_and_meets_them(progress, start):
    ramp = Ramp(1.0, 3.0, start, 1.0)
    assert 1.0 <= ramp.value(progress) <= 3.0
    assert ramp.value(1.0) == 3.0
    assert constant(2.0).value(progress) == 2.0
