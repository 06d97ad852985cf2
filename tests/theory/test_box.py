"""The bounded Newton step against SciPy's bounded least squares, and box_newton's promises about the box."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from rlhf_jax.objectives.utilities import Exponential, LogSigmoid
from rlhf_jax.theory.box import _bounded_step, box_newton
from rlhf_jax.theory.optimum import best_rewards
from rlhf_jax.theory.pairs import Pairs, Point
from rlhf_jax.theory.shapes import shape_of


@pytest.mark.parametrize("seed", range(20))
def test_a_bounded_step_maximises_the_quadratic_in_its_box(seed):
    """g d - d A d / 2 is least squares: with A = L L', the distance of L' d from L^-1 g. A is a graph Laplacian plus a
    diagonal; some bounds are met from the start, as of rewards that are 0 or 1.
    """
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 9))
    edges = np.triu(rng.exponential(size=(k, k)), 1)
    edges += edges.T
    matrix = np.diag(edges.sum(axis=1) + rng.exponential(size=k)) - edges
    gradient = 3.0 * rng.standard_normal(k)
    rewards = np.round(rng.random(k), 1)
    lowest, highest = -rewards, 1.0 - rewards
    move, held = _bounded_step(matrix, gradient, lowest, highest)
    factor = np.linalg.cholesky(matrix)
    wanted = lsq_linear(factor.T, np.linalg.solve(factor, gradient), (lowest, highest), method="bvls", tol=1e-15).x
    np.testing.assert_allclose(move, wanted, atol=1e-9)
    np.testing.assert_array_equal(held, (np.abs(wanted - lowest) < 1e-9) | (np.abs(wanted - highest) < 1e-9))


@pytest.mark.parametrize("utility", [LogSigmoid(sigma=0.25), Exponential(sigma=0.1)], ids=repr)
@pytest.mark.parametrize("far", [False, True], ids=["an end by chance", "the far end"])
def test_every_start_and_every_end_to_measure_from_give_the_same_rewards_inside_the_box(utility, far):
    """The maximiser is unique: random starts, each reward measured from 0 or 1 by chance, or from the farther."""
    n = 12
    pairs = Pairs.of_matrix(np.triu(np.ones((n, n)), 1))
    wanted = best_rewards(utility, n).rewards
    rng = np.random.default_rng(3)
    for _ in range(5):
        rewards = np.concatenate([[1.0], np.sort(rng.random(n - 2))[::-1], [0.0]])
        upper = rewards < 0.5 if far else rng.random(n) < 0.5
        point, steps = box_newton(pairs, shape_of(utility, False), Point(np.where(upper, 1 - rewards, rewards), upper))
        np.testing.assert_allclose(point.rewards, wanted, atol=1e-9)
        assert np.all((point.t >= 0.0) & (point.t <= 1.0))
        assert steps < 20


def test_a_maximum_that_is_not_found_is_said(monkeypatch):
    monkeypatch.setattr("rlhf_jax.theory.box.MOST_STEPS", 1)
    with pytest.raises(ArithmeticError, match="no maximum found in 1 Newton steps"):
        best_rewards(LogSigmoid(sigma=0.1), 12)
