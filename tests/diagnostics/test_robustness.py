"""Changes of reward by hand."""

import numpy as np
import pytest

from rlhf_jax.diagnostics.pairs import better_by_rank, pairs_of_lists
from rlhf_jax.diagnostics.robustness import robustness

RANKS, MASK = np.array([[0, 1], [0, 1], [0, 1]]), np.ones((3, 2), bool)
PAIRS = pairs_of_lists(better_by_rank(RANKS, MASK), RANKS, MASK)
BEFORE = np.array([[3.0, 1.0], [3.0, 1.0], [3.0, 1.0]])  # standard deviation 1


def test_shift_drift_and_flips():
    """The first pair turns round (both move by 2), the second becomes a tie (1 down), the third moves up by 1 whole."""
    after = np.array([[1.0, 3.0], [2.0, 2.0], [4.0, 2.0]])
    found = robustness(BEFORE, after, MASK, PAIRS, np.array([[True, True], [True, False], [False, False]]))
    assert found.shift == pytest.approx((2 + 2 + 1 + 1 + 1 + 1) / 6)
    assert found.drift == pytest.approx((-2 + 2 - 1 + 1 + 1 + 1) / 6)
    assert found.flips == pytest.approx(1.5 / 3)
    assert found.changed == 0.5


def test_the_unit_is_the_spread_of_the_rewards():
    one, ten = (robustness(scale * BEFORE, scale * (BEFORE + 0.25), MASK, PAIRS, MASK) for scale in (1.0, 10.0))
    assert one.shift == one.drift == pytest.approx(0.25) == ten.shift
    assert one.flips == 0.0


def test_responses_that_are_not_there_do_not_count():
    mask = np.array([[True, True], [False, False], [False, False]])
    after = BEFORE + np.array([[0.0], [100.0], [100.0]])
    found = robustness(BEFORE, after, mask, pairs_of_lists(better_by_rank(RANKS, mask), RANKS, mask), mask)
    assert (found.shift, found.flips, found.changed) == (0.0, 0.0, 1.0)
