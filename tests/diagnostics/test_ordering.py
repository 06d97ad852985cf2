"""Orders against SciPy, against every way of breaking ties, and by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from rlhf_jax.diagnostics.ordering import (
    Accuracy,
    accuracy_by_distance,
    accuracy_by_size,
    accuracy_by_type,
    kendall_tau,
    ndcg,
    relevance_of_ranks,
)
from rlhf_jax.diagnostics.pairs import better_by_rank, pairs_of_lists


def some_lists(seed: int, count: int = 40, width: int = 7):
    """Lists of 2 to 7 responses with ties in ranks and in rewards."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, width + 1, count)
    mask = np.arange(width) < sizes[:, None]
    return rng.integers(-2, 3, (count, width)) / 4, rng.integers(0, 4, (count, width)), mask


@pytest.mark.parametrize("seed", range(3))
def test_tau_b_is_that_of_scipy_ties_and_all(seed):
    rewards, ranks, mask = some_lists(seed)
    found = kendall_tau(rewards, better_by_rank(ranks, mask), mask)
    wanted = [
        kendalltau(-rank[own], reward[own]).statistic for reward, rank, own in zip(rewards, ranks, mask, strict=True)
    ]
    assert 0 < np.isnan(wanted).sum() < len(wanted)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_in_a_partial_order_what_was_not_compared_is_a_tie():
    """0 over 1, 2 compared with neither: one pair is judged, three have different rewards; 1 / sqrt(1 x 3)."""
    better = np.zeros((1, 3, 3), bool)
    better[0, 0, 1] = True
    found = kendall_tau(np.array([[0.9, 0.1, 0.5]]), better, np.ones((1, 3), bool))
    assert found[0] == pytest.approx(1 / math.sqrt(3))


def test_ndcg_by_hand():
    """Relevance 3, 1, 0 in the order of rewards 2nd, 1st, 3rd:

    linear: (1 / log2(2) + 3 / log2(3) + 0) / (3 / log2(2) + 1 / log2(3)); exponential: gains 7, 1, 0.
    """
    rewards, relevance = np.array([[0.5, 0.75, 0.0]]), np.array([[3.0, 1.0, 0.0]])
    mask = np.ones((1, 3), bool)
    third = 1 / math.log2(3)
    assert ndcg(rewards, relevance, mask)[0] == pytest.approx((1 + 3 * third) / (3 + third))
    assert ndcg(rewards, relevance, mask, exponential=True)[0] == pytest.approx((1 + 7 * third) / (7 + third))


@pytest.mark.parametrize("exponential", [False, True])
def test_ndcg_is_the_mean_over_all_ways_of_breaking_ties(exponential):
    """Every permutation of the responses, kept if rewards do not rise along it."""
    rewards, ranks, mask = some_lists(7, count=12, width=5)
    relevance = relevance_of_ranks(ranks, mask)
    for found, reward, own, real in zip(
        ndcg(rewards, relevance, mask, exponential=exponential), rewards, relevance, mask, strict=True
    ):
        gain = [2**value - 1 if exponential else value for value in own[real]]
        scores = []
        for order in itertools.permutations(range(len(gain))):
            if all(reward[a] >= reward[b] for a, b in itertools.pairwise(order)):
                scores.append(sum(gain[place] / math.log2(position + 2) for position, place in enumerate(order)))
        best = sum(value / math.log2(position + 2) for position, value in enumerate(sorted(gain, reverse=True)))
        assert found == pytest.approx(np.mean(scores) / best) if best else np.isnan(found)


def test_relevance_counts_the_tiers_below():
    ranks, mask = np.array([[0, 4, 2, 9], [3, 3, 0, 0]]), np.array([[True] * 3 + [False], [True] * 2 + [False] * 2])
    np.testing.assert_array_equal(relevance_of_ranks(ranks, mask), [[2, 0, 1, 0], [0, 0, 0, 0]])


def test_accuracy_in_parts_by_hand():
    """A list of three in order but for its last two, of type b, and a tied pair of rewards of type a."""
    rewards = np.array([[0.9, 0.1, 0.5], [0.5, 0.5, 0.0]])
    ranks = np.array([[0, 1, 2], [1, 0, 0]])
    mask = np.array([[True, True, True], [True, True, False]])
    pairs = pairs_of_lists(better_by_rank(ranks, mask), ranks, mask)
    assert accuracy_by_type(rewards, pairs, ["b", "a"]) == {"a": Accuracy(0.5, 1), "b": Accuracy(2 / 3, 3)}
    assert accuracy_by_size(rewards, pairs, mask) == {2: Accuracy(0.5, 1), 3: Accuracy(2 / 3, 3)}
    assert accuracy_by_distance(rewards, pairs) == {1: Accuracy(0.5, 3), 2: Accuracy(1.0, 1)}
