"""One reading of everything: what it leaves out, whom it believes, and how it is written."""

import json
import math

import numpy as np
import pytest

from rlhf_jax.diagnostics import as_plain, measure_reward_model, reading_metrics

RANKS = np.array([[0, 1, 2], [0, 1, 1]])
REWARDS = np.array([[0.9, 0.1, 0.5], [0.6, 0.4, 0.2]])
ALL = np.ones((2, 3), bool)


def test_the_parts_are_those_of_their_own_functions():
    """Pairs: .9 over .1 and .5, .1 over .5 (wrong); .6 over .4 and .2."""
    found = measure_reward_model(REWARDS, RANKS, ALL, ["a", "b"], lengths=np.full((2, 3), 7.0), temperature=0.5)
    assert (found.lists, found.responses, found.pairs, found.accuracy) == (2, 6, 5, 0.8)
    gaps = np.array([0.8, 0.4, -0.4, 0.2, 0.4])
    assert found.raw.log_loss == pytest.approx(np.log1p(np.exp(-gaps / 0.5)).mean())
    assert found.calibrated.log_loss <= found.raw.log_loss
    assert found.kendall_tau == pytest.approx((1 / 3 + 2 / math.sqrt(6)) / 2)
    assert found.length.matched.pairs == 5
    assert found.length.correlation is None


def test_rewards_that_are_not_finite_are_left_out():
    rewards = REWARDS.copy()
    rewards[0, 0], rewards[1, 2] = np.nan, -np.inf
    found = measure_reward_model(rewards, RANKS, ALL, ["", ""])
    assert (found.responses, found.pairs, found.accuracy) == (4, 2, 0.5)
    assert found.by_size.keys() == {2}
    assert found.length is None


def test_what_was_compared_is_believed_before_the_ranks():
    better = np.zeros((2, 3, 3), bool)
    better[0, 2, 1] = True
    found = measure_reward_model(REWARDS, RANKS, ALL, ["", ""], better=better)
    assert (found.pairs, found.accuracy) == (1, 1.0)


def test_lengths_must_all_be_known():
    lengths = np.full((2, 3), 7.0)
    lengths[0, 1] = np.nan
    assert measure_reward_model(REWARDS, RANKS, ALL, ["", ""], lengths=lengths).length is None


def test_nothing_to_measure():
    found = measure_reward_model(REWARDS, np.zeros((2, 3), int), ALL, ["", ""])
    assert (found.pairs, found.accuracy, found.raw, found.ndcg, found.kendall_tau) == (0, None, None, None, None)
    assert reading_metrics(found) == {}


def test_the_metrics_by_name():
    found = reading_metrics(measure_reward_model(REWARDS, RANKS, ALL, ["", ""]))
    assert list(found) == [
        *("kendall_tau", "ndcg", "log_loss", "brier", "ece", "temperature", "log_loss_calibrated", "ece_calibrated"),
        *("accuracy_at_distance.1", "accuracy_at_distance.2"),
    ]
    assert found["accuracy_at_distance.1"] == 0.75


def test_a_reading_is_strict_json_with_its_derived_figures():
    found = as_plain(measure_reward_model(REWARDS, RANKS, ALL, ["", ""]))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    reliability = found["raw"]["reliability"]
    assert reliability["accuracy"][9] is None  # an empty bin
    assert reliability["ece"] > 0
    assert found["by_distance"]["2"] == {"accuracy": 1.0, "pairs": 1}
    assert as_plain({1: (math.inf, np.array([1, 2]))}) == {"1": [None, [1, 2]]}
