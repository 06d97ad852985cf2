import subprocess
import sys

import numpy as np
import pytest

from rlhf_jax.diagnostics import (
    distribution_summary,
    pair_accuracy,
    pair_accuracy_of_lists,
    rank_profile,
    wasserstein_1,
)

ALL = np.ones(3, dtype=bool)


def test_pair_accuracy_counts_ordered_pairs():
    # best first: pairs (0,1) right, (0,2) wrong, (1,2) wrong
    assert pair_accuracy(np.array([0.5, 0.1, 0.9]), np.array([0, 1, 2]), ALL) == (1.0, 3)


def test_equal_rewards_count_half():
    assert pair_accuracy(np.array([0.5, 0.5, 0.1]), np.array([0, 1, 2]), ALL) == (2.5, 3)


def test_tied_ranks_and_masked_responses_are_no_pairs():
    assert pair_accuracy(np.array([0.9, 0.1, 0.5]), np.array([0, 0, 1]), ALL) == (1.0, 2)
    mask = np.array([True, True, False])
    assert pair_accuracy(np.array([0.9, 0.1, 9.9]), np.array([0, 1, 2]), mask) == (1.0, 1)


def test_a_nan_reward_is_never_right():
    rewards = np.array([np.nan, 0.1, 0.0])
    assert pair_accuracy(rewards, np.array([0, 1, 2]), ALL) == (1.0, 3)


def test_pair_accuracy_of_lists_adds_pairs_not_lists():
    rewards = np.array([[3.0, 2.0, 1.0], [0.0, 1.0, 5.0]])
    ranks = np.array([[0, 1, 2], [0, 1, 2]])
    mask = np.array([[True, True, True], [True, True, False]])
    assert pair_accuracy_of_lists(rewards, ranks, mask) == (3.0, 4)


def test_wasserstein_1_of_point_masses_and_of_unequal_samples():
    assert wasserstein_1(np.array([0.2]), np.array([0.7])) == pytest.approx(0.5)
    # {0,0,1,1} against {1/2}: every point moves by 1/2
    assert wasserstein_1(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.5])) == pytest.approx(0.5)


def test_rank_profile_means_by_rank_and_leaves_gaps_nan():
    rewards = np.array([[0.9, 0.1, 0.4], [0.7, 0.3, 8.0]])
    ranks = np.array([[0, 3, 1], [0, 1, 2]])
    mask = np.array([[True, True, True], [True, True, False]])
    means, counts = rank_profile(rewards, ranks, mask)
    np.testing.assert_allclose(means, [0.8, 0.35, np.nan, 0.1])
    np.testing.assert_array_equal(counts, [2, 2, 0, 1])


def test_distribution_summary_by_hand():
    summary = distribution_summary(np.array([0.0, 0.1, 0.9, 1.0]))
    assert summary["mean"] == pytest.approx(0.5)
    assert summary["std"] == pytest.approx(np.sqrt((0.25 + 0.16) / 2))
    assert (summary["share_low"], summary["share_high"]) == (0.25, 0.25)


def test_diagnostics_metrics_and_reports_never_import_jax():
    code = (
        "import sys, rlhf_jax.diagnostics, rlhf_jax.metrics, rlhf_jax.console, rlhf_jax.reports;"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
