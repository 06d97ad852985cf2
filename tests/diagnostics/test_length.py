"""Length bias by hand and against SciPy."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from rlhf_jax.diagnostics.length import length_bias, spearman, spearman_within
from rlhf_jax.diagnostics.ordering import Accuracy
from rlhf_jax.diagnostics.pairs import better_by_rank, pairs_of_lists


def measured(rewards, lengths, ranks, share=0.1):
    rewards, lengths, ranks = np.array(rewards, float), np.array(lengths, float), np.array(ranks)
    mask = np.ones(ranks.shape, bool)
    return length_bias(rewards, lengths, mask, pairs_of_lists(better_by_rank(ranks, mask), ranks, mask), share)


def test_pairs_by_hand():
    """(better, worse): lengths 10, 20 wrong; 20, 10 right; 20, 10 wrong; 100, 91 right; 50, 50 wrong; 30, 60 wrong.

    Of five pairs of different length the longer wins in all but the 3rd, and is the better in the 2nd, 3rd, 4th.
    """
    found = measured(
        rewards=[[0, 1], [1, 0], [0, 1], [1, 0], [0, 1], [0, 1]],
        lengths=[[10, 20], [20, 10], [20, 10], [100, 91], [50, 50], [30, 60]],
        ranks=[[0, 1]] * 6,
    )
    assert found.longer_wins == pytest.approx(4 / 5)
    assert found.longer_is_better == pytest.approx(3 / 5)
    assert found.matched == Accuracy(0.5, 2)
    assert found.better_shorter == Accuracy(0.0, 2)
    assert found.better_longer == Accuracy(2 / 3, 3)


def test_a_tie_in_reward_is_half_a_win_and_equal_lengths_take_no_side():
    found = measured([[0.5, 0.5], [1, 0]], [[10, 20], [7, 7]], [[0, 1]] * 2)
    assert (found.longer_wins, found.longer_is_better) == (0.5, 0.0)
    assert found.matched == Accuracy(1.0, 1)
    assert found.better_longer is None
    assert measured([[1, 0]], [[7, 7]], [[0, 1]]).longer_wins is None


def test_matched_is_a_share_of_the_longer():
    """91 of 100 is within 9 % exactly, 90 within 10 %."""
    assert measured([[1, 0]], [[91, 100]], [[0, 1]], share=0.09).matched == Accuracy(1.0, 1)
    assert measured([[1, 0]], [[90, 100]], [[0, 1]], share=0.09).matched is None


def test_the_correlation_is_that_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 80) / 3, rng.integers(0, 30, 80).astype(float)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(a, np.ones(80)) is None
    assert spearman(np.zeros(0), np.zeros(0)) is None


def test_within_lists_what_prompts_ask_for_does_not_count():
    """Long lists of high rewards, but inside each list the shorter has more: +, and within -1 in ranks."""
    rewards = np.array([[2.0, 1.0], [4.0, 3.0], [6.0, 5.0]])
    lengths = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    mask = np.ones((3, 2), bool)
    assert spearman(rewards[mask], lengths[mask]) > 0.8
    assert spearman_within(rewards, lengths, mask) == pytest.approx(-1.0)


def test_the_partial_correlation_is_that_of_residuals_on_the_lists():
    """Least squares on one indicator a list, by hand of ``numpy.linalg``; padding takes no part."""
    rng = np.random.default_rng(3)
    mask = np.arange(5) < rng.integers(2, 6, 12)[:, None]
    a, b = rng.normal(size=mask.shape), rng.integers(1, 40, mask.shape).astype(float)
    lists = np.repeat(np.arange(12)[:, None], 5, axis=1)[mask]
    indicators = (lists[:, None] == np.arange(12)).astype(float)
    residuals = []
    for values in (a[mask], b[mask]):
        ranks = spearmanr_ranks(values)
        residuals.append(ranks - indicators @ np.linalg.lstsq(indicators, ranks, rcond=None)[0])
    assert spearman_within(a, b, mask) == pytest.approx(np.corrcoef(*residuals)[0, 1])


def spearmanr_ranks(values):
    """Mean rank of equals, by counting."""
    return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])
