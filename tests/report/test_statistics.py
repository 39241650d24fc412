"""What a report says of arms: known answers, slow independent references, and properties."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from numpy.testing import assert_allclose

from cdrl_pl.report import statistics as st

numbers = some.floats(-100, 100, allow_nan=False)
runs = some.lists(numbers, min_size=1, max_size=9)

# Aggregates


def slow_iqm(scores: list[float]) -> float:
    """The mean of what is left when floor(N/4) of the lowest and of the highest are struck out, one by one."""
    left = list(scores)
    for _ in range(int(0.25 * len(scores))):
        left.remove(min(left))
        left.remove(max(left))
    return sum(left) / len(left)


def slow_probability(scores: list[float], baseline: list[float]) -> float:
    points = [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in itertools.product(scores, baseline)]
    return sum(points) / len(points)


@pytest.mark.parametrize(
    ("scores", "expected"), [([7], 7), ([1, 2, 6], 3), ([100, 2, 4, 0], 3), ([0, 0, 1, 2, 3, 4, 9, 99], 2.5)]
)
def test_the_iqm_of_known_scores(scores: list[float], expected: float) -> None:
    assert float(st.iqm(np.array(scores))) == expected


@given(runs)
def test_the_iqm_equals_a_slow_reference(scores: list[float]) -> None:
    assert_allclose(st.iqm(np.array(scores)), slow_iqm(scores), atol=1e-9)


@pytest.mark.parametrize(
    ("scores", "baseline", "expected"),
    [
        ([1, 2], [1, 2], 0.5),
        ([5, 5, 5], [5], 0.5),
        ([3, 4], [1, 2], 1.0),
        ([1], [2, 3], 0.0),
        ([2], [1, 2, 3, 4], 0.375),
    ],
)
def test_the_probability_of_improvement_of_known_scores(
    scores: list[float], baseline: list[float], expected: float
) -> None:
    assert float(st.probability_of_improvement(np.array(scores), np.array(baseline))) == expected


@given(runs, runs)
def test_the_probability_of_improvement_equals_a_slow_reference(x: list[float], y: list[float]) -> None:
    assert_allclose(st.probability_of_improvement(np.array(x), np.array(y)), slow_probability(x, y))


@given(runs, runs)
def test_improving_and_being_improved_upon_sum_to_one(x: list[float], y: list[float]) -> None:
    there, back = (st.probability_of_improvement(np.array(a), np.array(b)) for a, b in ((x, y), (y, x)))
    assert_allclose(there + back, 1)


# Intervals


def test_the_interval_of_constant_scores_is_their_value() -> None:
    assert st.bootstrap(st.mean, [3.5] * 4) == (3.5, 3.5)
    assert st.bootstrap(st.difference, [3.5] * 4, [1.0] * 2) == (2.5, 2.5)


def test_one_run_gives_no_interval() -> None:
    assert np.isnan(st.bootstrap(st.difference, [1.0, 2.0], [1.0])).all()


def test_an_arm_without_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="no runs"):
        st.bootstrap(st.mean, [])


def test_the_interval_equals_that_of_every_resample() -> None:
    """Three runs have 27 resamples: the percentiles of all of them, to the error of a finite draw."""
    scores = [1.0, 4.0, 10.0]
    every = [np.mean(chosen) for chosen in itertools.product(scores, repeat=3)]
    expected = np.quantile(every, [0.025, 0.975], method="inverted_cdf")
    assert_allclose(st.bootstrap(st.mean, scores), expected)


def test_arms_are_resampled_by_themselves() -> None:
    """With equal arms resampled together the difference would always be 0."""
    low, high = st.bootstrap(st.difference, [0.0, 1.0, 2.0], [0.0, 1.0, 2.0])
    assert low < -0.5 and high > 0.5


def test_the_interval_holds_the_truth_about_as_often_as_it_says_with_many_runs_and_less_with_few() -> None:
    rng = np.random.default_rng(0)

    def held(count: int) -> float:
        pairs = rng.normal(size=(300, 2, count))
        found = [st.bootstrap(st.difference, *pair, resamples=400) for pair in pairs]
        return float(np.mean([low <= 0 <= high for low, high in found]))

    assert held(25) > 0.9 and held(3) < 0.88


# Curves

X = np.array([10.0, 20.0, 40.0])
Y = np.array([0.0, 2.0, 4.0])


def test_a_curve_is_read_between_its_points_and_not_beyond_them() -> None:
    assert_allclose(st.on_grid(X, Y, np.array([5, 10, 15, 30, 40, 41])), [np.nan, 0, 1, 3, 4, np.nan])
    assert np.isnan(st.on_grid(np.empty(0), np.empty(0), X)).all()


def test_the_height_is_the_area_over_the_width() -> None:
    assert st.height(X, Y, 10, 40) == pytest.approx((1 * 10 + 3 * 20) / 30)
    assert st.height(X, Y, 15, 30) == pytest.approx((1.5 * 5 + 2.5 * 10) / 15)


@pytest.mark.parametrize("span", [(5, 40), (10, 41), (20, 20)])
def test_a_curve_that_does_not_cover_the_span_has_no_height(span: tuple[float, float]) -> None:
    assert np.isnan(st.height(X, Y, *span))


@given(some.floats(0.1, 10), some.floats(-5, 5))
def test_the_area_ratio_of_a_scaled_curve_is_the_scale(scale: float, floor: float) -> None:
    ours = np.array([st.height(X, floor + scale * (Y + 1), 10, 40)])
    theirs = np.array([st.height(X, floor + Y + 1, 10, 40)])
    assert_allclose(st.area_ratio(ours, theirs, floor), scale)


@pytest.mark.parametrize("base", [0.0, -3.0])
def test_an_area_ratio_to_nothing_is_none(base: float) -> None:
    assert np.isnan(st.area_ratio(np.array([2.0]), np.array([base])))


def test_the_band_is_the_interval_at_every_point() -> None:
    curves = np.array([[0.0, 5.0], [3.0, 5.0], [6.0, 5.0]])
    middle, low, high = st.band(curves, resamples=20_000)
    assert_allclose(middle, [3, 5])
    assert_allclose((low[0], high[0]), st.bootstrap(st.mean, curves[:, 0]), atol=1e-9)
    assert_allclose((low[1], high[1]), (5, 5))


def test_the_band_of_one_run_is_not_drawn() -> None:
    middle, low, high = st.band(np.array([[1.0, 2.0]]))
    assert_allclose(middle, [1, 2])
    assert np.isnan([low, high]).all()


# Time to threshold


def test_the_threshold_is_reached_at_the_first_point_at_or_above_it() -> None:
    assert st.time_to_threshold(X, np.array([1.0, 3.0, 2.0]), 3.0) == 20
    assert st.time_to_threshold(X, np.array([1.0, 2.9, 2.0]), 3.0) == float("inf")
    assert st.time_to_threshold(np.empty(0), np.empty(0), 3.0) == float("inf")


@pytest.mark.parametrize(
    ("per_run", "reached", "median", "mean", "is_bound"),
    [
        ([10, 30, 20], 3, 20, 20, False),
        ([10, 30, np.inf], 2, 30, 140 / 3, True),
        ([10, np.inf, np.inf], 1, np.inf, 70, True),
        ([10, np.inf], 1, np.inf, 55, True),
        ([np.inf, np.inf], 0, np.inf, 100, True),
    ],
)
def test_runs_that_do_not_reach_the_threshold_are_not_left_out(
    per_run: Any, reached: int, median: float, mean: float, is_bound: bool
) -> None:
    found = st.times(per_run, budget=100)
    assert (found.reached, found.median, found.is_bound) == (reached, median, is_bound)
    assert found.mean == pytest.approx(mean)
