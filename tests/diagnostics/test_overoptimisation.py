"""Fits of gold against distance: curves made by hand, scipy's own least squares, peaks by search."""

import numpy as np
import pytest
from scipy.optimize import curve_fit, minimize_scalar

from rlhf_jax.diagnostics.overoptimisation import Fit, bootstrap_fit, fit, reward_gap, turning_point

DISTANCE = np.linspace(0.2, 4.0, 20)
SHAPES = {"best_of_n": lambda d, a, b: d * (a - b * d), "rl": lambda d, a, b: d * (a - b * np.log(d))}


@pytest.mark.parametrize("form", SHAPES)
def test_a_curve_of_the_form_is_found_again(form: str) -> None:
    found = fit(np.append(0.0, DISTANCE), np.append(0.0, SHAPES[form](DISTANCE, 0.7, 0.2)), form)
    assert (found.a, found.b) == pytest.approx((0.7, 0.2))
    assert found(DISTANCE) == pytest.approx(SHAPES[form](DISTANCE, 0.7, 0.2))


@pytest.mark.parametrize("form", SHAPES)
def test_noisy_curves_are_fitted_as_by_scipy(form: str) -> None:
    """Least squares of R / d: residuals of R weighted by 1 / d."""
    gain = SHAPES[form](DISTANCE, 0.7, 0.2) + 0.1 * np.random.default_rng(1).normal(size=20)
    wanted, _ = curve_fit(SHAPES[form], DISTANCE, gain, p0=(1.0, 0.1), sigma=DISTANCE)
    found = fit(DISTANCE, gain, form)
    assert (found.a, found.b) == pytest.approx(tuple(wanted), rel=1e-6)


@pytest.mark.parametrize("form", SHAPES)
def test_the_peak_is_where_a_search_finds_it(form: str) -> None:
    curve = Fit(form, 0.7, 0.2)
    best = minimize_scalar(lambda d: -SHAPES[form](d, 0.7, 0.2), bounds=(0.1, 50.0), method="bounded")
    assert curve.peak == pytest.approx((best.x, -best.fun), rel=1e-4)


def test_a_curve_that_never_turns_has_no_peak() -> None:
    assert Fit("best_of_n", 0.5, 0.0).peak == (np.inf, np.inf)
    assert Fit("rl", 0.5, -0.1).peak == (np.inf, np.inf)


def test_a_curve_that_only_falls_is_highest_where_it_starts() -> None:
    assert Fit("best_of_n", -1.0, 1.0).peak == (0.0, 0.0)
    assert Fit("rl", -1.0, 0.0).peak == (0.0, 0.0)


def test_answers_that_are_all_worth_the_same_have_no_gap() -> None:
    """0.1 48 times has a deviation of 1.4e-17 in floats."""
    start, better = np.linspace(0, 1, 48), np.linspace(0, 2, 48)
    assert np.isnan(reward_gap(better, np.full(48, 0.09), start, np.full(48, 0.1)))
    assert reward_gap(better, np.full(48, 0.5), start, start) == pytest.approx(0.5 / start.std())


def test_one_distance_is_not_enough() -> None:
    with pytest.raises(ValueError, match="two different distances"):
        fit(np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.1]), "rl")


def test_bootstrap_intervals_hold_the_truth_and_shrink_with_runs() -> None:
    """Runs that differ in their a alone: the interval of a is that of a mean of as many normal numbers."""
    rng = np.random.default_rng(2)
    widths = []
    for runs in (8, 128):
        heights = 0.7 + 0.1 * rng.normal(size=(runs, 1))
        found = bootstrap_fit(
            np.broadcast_to(DISTANCE, (runs, 20)), DISTANCE * (heights - 0.2 * DISTANCE), "best_of_n", seed=0
        )
        assert found.fit.a == pytest.approx(heights.mean())
        low, high = found.a
        assert low < 0.7 < high
        widths.append(high - low)
        assert (high - low) == pytest.approx(2 * 1.96 * heights.std() / np.sqrt(runs), rel=0.15)
        # Every run has the same b, and a peak of a / 2b.
        assert found.b == pytest.approx((0.2, 0.2))
        assert found.peak_distance == pytest.approx((low / 0.4, high / 0.4))
    assert widths[1] < widths[0] / 3


def test_the_turning_point_is_that_of_the_smoothed_curve() -> None:
    gold = np.array([0.0, 1.0, 0.0, 0.6, 0.7, 0.6, 0.2])
    assert turning_point(gold) == 1
    assert turning_point(gold, window=3) == 4
