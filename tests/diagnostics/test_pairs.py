"""Pairs written out by hand."""

import numpy as np

from rlhf_jax.diagnostics.pairs import better_by_rank, dense_ranks, pairs_of_lists, right_order

# Ranks 3, 5, 5 and no fourth response; ranks 0 and 2 beside two that do not exist.
RANKS = np.array([[3, 5, 5, 0], [2, 0, 9, 9]])
MASK = np.array([[True, True, True, False], [True, True, False, False]])


def test_pairs_are_those_of_different_rank_and_their_distance_counts_tiers():
    pairs = pairs_of_lists(better_by_rank(RANKS, MASK), RANKS, MASK)
    assert list(zip(pairs.row, pairs.better, pairs.worse, pairs.distance, strict=True)) == [
        (0, 0, 1, 1),
        (0, 0, 2, 1),
        (1, 1, 0, 1),
    ]
    ranks = np.array([[0, 1, 1, 4]])
    wide = pairs_of_lists(better_by_rank(ranks, np.ones((1, 4), bool)), ranks, np.ones((1, 4), bool))
    assert dict(zip(zip(wide.better, wide.worse, strict=True), wide.distance, strict=True)) == {
        (0, 1): 1,
        (0, 2): 1,
        (0, 3): 2,
        (1, 3): 1,
        (2, 3): 1,
    }


def test_dense_ranks_have_no_gaps():
    np.testing.assert_array_equal(dense_ranks(RANKS, MASK), [[0, 1, 1, 0], [1, 0, 0, 0]])


def test_a_partial_order_has_the_pairs_that_were_judged_and_no_other():
    """0 over 1 over 3, and 2 beside them, of rank 0: by ranks alone 2 would be over 1 and 3."""
    ranks, mask = np.array([[0, 1, 0, 2]]), np.ones((1, 4), bool)
    better = np.zeros((1, 4, 4), bool)
    better[0, 0, 1] = better[0, 1, 3] = better[0, 0, 3] = True
    pairs = pairs_of_lists(better, ranks, mask)
    assert list(zip(pairs.better, pairs.worse, pairs.distance, strict=True)) == [(0, 1, 1), (0, 3, 2), (1, 3, 1)]


def test_right_order_counts_equal_rewards_one_half_and_a_nan_as_wrong():
    ranks, mask = np.array([[0, 1], [0, 1], [1, 0], [0, 1]]), np.ones((4, 2), bool)
    rewards = np.array([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [np.nan, 0.0]])
    pairs = pairs_of_lists(better_by_rank(ranks, mask), ranks, mask)
    np.testing.assert_array_equal(right_order(rewards, pairs), [1, 0.5, 0, 0])
