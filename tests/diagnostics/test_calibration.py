"""Calibration by hand, against a plain loop, and where the truth is known."""

import math

import numpy as np
import pytest
from scipy.special import expit

from rlhf_jax.diagnostics.calibration import (
    HOTTEST,
    bayes,
    best_temperature,
    brier,
    calibration,
    log_loss,
    probabilities,
    reliability,
)


def test_the_reliability_diagram_by_hand():
    """One pair right at confidence 0.9, which is an edge and belongs to the bin below it; at 0.9375 and at 0.625 one is
    right and one wrong each."""
    probability = np.array([0.9, 0.9375, 0.0625, 0.625, 0.375])
    found = reliability(probability)
    assert found.edges.tolist() == pytest.approx([0.5 + 0.05 * i for i in range(11)])
    assert found.pairs.tolist() == [0, 0, 2, 0, 0, 0, 0, 1, 2, 0]
    assert found.confidence[[2, 7, 8]].tolist() == pytest.approx([0.625, 0.9, 0.9375])
    assert found.accuracy[[2, 7, 8]].tolist() == pytest.approx([0.5, 1.0, 0.5])
    assert found.ece == pytest.approx((2 * 0.125 + 1 * 0.1 + 2 * 0.4375) / 5)
    assert found.mce == pytest.approx(0.4375)


def test_the_diagram_of_every_orientation_is_one():
    """Which response of a pair is called the first is of no account: (p, it won) and (1 - p, it lost) are one pair."""
    rng = np.random.default_rng(0)
    p, first_won = rng.random(500), rng.random(500) < 0.5
    winner = np.where(first_won, p, 1 - p)
    found = reliability(winner)
    ece = 0.0
    for low in np.linspace(0.5, 0.95, 10):
        inside = [
            (c, a)
            for q, won in zip(p, first_won, strict=True)
            if low < (c := max(q, 1 - q)) <= low + 0.05
            for a in [(q > 0.5) == won]
        ]
        ece += len(inside) / 500 * abs(np.mean([a for _, a in inside]) - np.mean([c for c, _ in inside]))
    assert found.ece == pytest.approx(ece)


def test_ends_and_halves():
    found = reliability(np.array([0.5, 1.0, 0.0]))
    assert found.pairs.tolist() == [1] + [0] * 8 + [2]
    assert found.accuracy[[0, 9]].tolist() == [0.5, 0.5]
    assert reliability(np.array([])).ece == reliability(np.array([])).mce == 0.0


def test_losses_by_hand():
    """sigma(log 3) = 3/4: losses log(4/3) and log 4, squares 1/16 and 9/16. A gap of 1000 must not overflow."""
    gaps = 2.0 * np.log([3.0, 1 / 3])
    assert probabilities(gaps, 2.0).tolist() == pytest.approx([0.75, 0.25])
    assert log_loss(gaps, 2.0) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    assert brier(probabilities(gaps, 2.0)) == pytest.approx((1 / 16 + 9 / 16) / 2)
    assert log_loss(np.array([-1000.0]), 1.0) == 1000.0
    assert calibration(np.zeros(3), 1.0).log_loss == pytest.approx(math.log(2))


def test_the_best_temperature_of_two_kinds_of_gap_in_closed_form():
    """Gaps of one size g, three of four won: the loss is least where sigma(g / T) = 3/4, T = g / log 3."""
    gaps = np.array([0.2, 0.2, 0.2, -0.2])
    assert best_temperature(gaps) == pytest.approx(0.2 / math.log(3), rel=1e-5)
    assert best_temperature(1e6 * gaps) == pytest.approx(2e5 / math.log(3), rel=1e-5)
    assert best_temperature(np.zeros(4)) == 1.0


def test_the_temperature_that_made_the_order_is_found_again_and_calibrates():
    """200,000 pairs whose winners are drawn with sigma(gap / 0.07): bounded rewards, far too cold for T = 1."""
    rng = np.random.default_rng(0)
    gaps = rng.uniform(-0.3, 0.3, 200_000)
    gaps = np.where(rng.random(len(gaps)) < expit(gaps / 0.07), gaps, -gaps)
    found = best_temperature(gaps)
    assert found == pytest.approx(0.07, rel=0.02)
    assert calibration(gaps, found).reliability.ece < 0.005
    assert calibration(gaps, 1.0).reliability.ece > 0.2


def test_no_temperature_is_hot_enough_for_rewards_that_mislead():
    """Where gaps are no better than chance the best is to know nothing: log 2."""
    gaps = np.array([1.0, -1.0, -1.0])
    assert best_temperature(gaps) > HOTTEST / 2
    assert log_loss(gaps, best_temperature(gaps)) == pytest.approx(math.log(2), abs=1e-4)


def test_the_bayes_figures_by_hand():
    """Truth 3/4 and 1/2. The model says 1/2 and 1/2: KL = log 2 - H(3/4) in the first pair, 0 in the second."""
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    found = bayes(np.array([0.5, 0.5]), np.array([0.75, 0.5]))
    assert found.accuracy == pytest.approx(0.625)
    assert found.log_loss == pytest.approx((entropy + math.log(2)) / 2)
    assert found.excess_log_loss == pytest.approx((math.log(2) - entropy) / 2)


def test_expected_log_loss_is_entropy_and_excess_and_nothing_beats_the_truth():
    """Winners drawn from the truth: the model's log-loss tends to Bayes log-loss + excess."""
    rng = np.random.default_rng(1)
    truth, model = rng.uniform(0, 1, 200_000), rng.uniform(0.2, 0.8, 200_000)
    won = rng.random(len(truth)) < truth
    seen = -np.log(np.where(won, model, 1 - model)).mean()
    found = bayes(model, truth)
    assert found.log_loss + found.excess_log_loss == pytest.approx(seen, abs=0.005)
    assert bayes(truth, truth).excess_log_loss == pytest.approx(0.0, abs=1e-12)
    assert bayes(np.array([1.0, 0.0]), np.array([1.0, 0.0])).excess_log_loss == 0.0
    assert bayes(np.array([0.0]), np.array([0.5])).excess_log_loss == math.inf
