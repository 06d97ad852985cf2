"""What the experiments measure, against enumeration and figures worked by hand."""

import numpy as np
import pytest

from experiments.measures import beta_at_kl, entropy, interval, kl, pair_ece, temperature, tilted


def test_the_optimum_on_three_answers_by_hand() -> None:
    """Weights 1/2 e^0, 1/4 e^(ln 2), 1/4 e^(ln 4) = 1/2, 1/2, 1, of sum 2."""
    reference = np.array([0.5, 0.25, 0.25])
    policy = tilted(0.1 * np.log([1.0, 2.0, 4.0]), reference, 0.1)
    assert policy == pytest.approx([0.25, 0.25, 0.5])
    # 1/4 ln 1/2 + 1/4 ln 1 + 1/2 ln 2 = 1/4 ln 2; entropy 2 x 1/4 ln 4 + 1/2 ln 2 = 3/2 ln 2.
    assert kl(policy, reference) == pytest.approx(0.25 * np.log(2.0))
    assert entropy(policy) == pytest.approx(1.5 * np.log(2.0))


def test_no_other_policy_has_more_reward_at_that_price() -> None:
    rng = np.random.default_rng(0)
    rewards, reference, beta = rng.random(3), np.array([0.2, 0.3, 0.5]), 0.4
    best = tilted(rewards, reference, beta)
    value = best @ rewards - beta * kl(best, reference)
    for other in rng.dirichlet(np.ones(3), 500):
        assert other @ rewards - beta * kl(other, reference) <= value + 1e-12


def test_beta_at_a_kl_and_a_kl_out_of_reach() -> None:
    """Two equal best answers of four can be preferred by no more than ln 2."""
    reference = np.full(4, 0.25)
    rewards = np.array([0.0, 0.0, 1.0, 1.0])
    beta = beta_at_kl([rewards, rewards], [reference, reference], 0.3)
    assert beta is not None
    assert kl(tilted(rewards, reference, beta), reference) == pytest.approx(0.3, abs=1e-4)
    assert beta_at_kl([rewards], [reference], np.log(2.0) + 0.01) is None


def test_calibration_by_hand() -> None:
    """Confidences .6, .6 and .9 in three of ten bins of [1/2, 1]: |1/2 - .6| x 2/4 + |1 - .9| / 4 + |0 - .75| / 4."""
    logit = lambda p: np.log(p / (1 - p))  # noqa: E731
    gaps = np.array([logit(0.61), -logit(0.61), logit(0.91), -logit(0.76)])
    right = np.array([True, True, True, True])  # the second pair's winner is thus predicted wrongly, the fourth's too
    expected = 0.5 * abs(0.5 - 0.61) + 0.25 * abs(1.0 - 0.91) + 0.25 * abs(0.0 - 0.76)
    assert pair_ece(gaps, right) == pytest.approx(expected)
    assert pair_ece(-gaps, ~right) == pytest.approx(expected)


def test_labels_drawn_by_the_confidences_are_calibrated_and_their_temperature_is_found() -> None:
    rng = np.random.default_rng(1)
    gaps = rng.normal(size=40_000)
    right = rng.random(40_000) < 1.0 / (1.0 + np.exp(-gaps / 0.5))
    assert temperature(gaps, right) == pytest.approx(0.5, rel=0.05)
    assert pair_ece(gaps / 0.5, right) < 0.01
    assert pair_ece(gaps / 5.0, right) > 0.2


def test_interval_of_three_by_the_table() -> None:
    """Student's t for two degrees of freedom at 97.5 % is 4.3027."""
    centre, half = interval([1.0, 2.0, 3.0])
    assert (centre, half) == pytest.approx((2.0, 4.3027 / np.sqrt(3.0)), rel=1e-4)
