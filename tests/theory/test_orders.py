"""Best rewards when only some pairs are compared: tiers, general orders, weights."""

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_jax.objectives.utilities import Exponential, Log, LogSigmoid, NegativePower, Power, Quantile
from rlhf_jax.theory.optimum import best_rewards, best_rewards_of_order, best_rewards_of_tiers

RAW = {  # value and slope, written out again
    "power": (lambda x: np.sqrt(x), lambda x: 0.5 / np.sqrt(x)),
    "log": (np.log, lambda x: 1.0 / x),
    "exponential": (lambda x: -np.exp(-x / 0.25), lambda x: 4.0 * np.exp(-x / 0.25)),
    "log_sigmoid": (lambda x: -np.log1p(np.exp(-x / 0.5)), lambda x: 2.0 / (1.0 + np.exp(x / 0.5))),
}
MEMBERS = {
    "power": Power(gamma=0.5),
    "log": Log(),
    "exponential": Exponential(sigma=0.25),
    "log_sigmoid": LogSigmoid(sigma=0.5),
}


def brute_force(name, n, pairs, weights):
    """SLSQP on the rewards, every compared pair in order."""
    value, slope = RAW[name]
    better, worse = np.array(pairs).T
    difference = np.zeros((len(pairs), n))
    difference[np.arange(len(pairs)), better] += 1.0
    difference[np.arange(len(pairs)), worse] -= 1.0
    floor = 1e-9

    def loss(r):
        gaps = np.maximum(difference @ r, floor)
        return -np.dot(weights, value(gaps)), -(weights * slope(gaps)) @ difference

    depth = np.zeros(n)
    for _ in range(n):
        for i, j in pairs:
            depth[j] = max(depth[j], depth[i] + 1)
    order = {"type": "ineq", "fun": lambda r: difference @ r - floor, "jac": lambda r: difference}
    start = 0.95 - 0.9 * depth / depth.max()
    options = {"maxiter": 1000, "ftol": 1e-15}
    found = minimize(loss, start, jac=True, bounds=[(0, 1)] * n, constraints=[order], method="SLSQP", options=options)
    return found.x, -found.fun


@pytest.mark.parametrize("member", sorted(MEMBERS))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_random_partial_order_against_brute_force(member, seed):
    rng = np.random.default_rng(seed)
    n = 7
    edges = np.triu(rng.random((n, n)) < 0.4, 1)
    for _ in range(3):  # what follows from two comparisons is one
        edges |= (edges.astype(int) @ edges.astype(int)) > 0
    shuffle = rng.permutation(n)
    edges = edges[np.ix_(shuffle, shuffle)]
    pairs = [tuple(pair) for pair in np.argwhere(edges).tolist()]
    weights = np.ones(len(pairs)) if seed == 0 else rng.uniform(0.5, 2.0, len(pairs))
    matrix = np.zeros((n, n))
    matrix[tuple(np.array(pairs).T)] = weights
    found = best_rewards_of_order(MEMBERS[member], n, pairs if seed == 0 else matrix)
    rewards, objective = brute_force(member, n, pairs, weights)
    compared = edges.any(axis=0) | edges.any(axis=1)
    assert found.objective == pytest.approx(objective, rel=2e-6)
    assert found.objective >= objective - 1e-6 * abs(objective)
    np.testing.assert_allclose(found.rewards[compared], rewards[compared], atol=3e-3)
    np.testing.assert_array_equal(found.rewards[~compared], 0.5)
    assert found.kkt_residual < 1e-12
    assert found.unique == bool(compared.all())


@pytest.mark.parametrize("utility", list(MEMBERS.values()), ids=repr)
def test_a_chain_of_all_pairs_is_the_full_order(utility):
    full = best_rewards_of_order(utility, 8, [(i, j) for i in range(8) for j in range(i + 1, 8)])
    np.testing.assert_allclose(full.rewards, best_rewards(utility, 8).rewards, atol=1e-12)


def test_responses_that_are_not_compared_are_free():
    found = best_rewards_of_order(Log(), 4, [(2, 0)])
    assert found.rewards.tolist() == [0.0, 0.5, 1.0, 0.5]
    assert not found.unique


@pytest.mark.parametrize("pairs", [[(0, 1), (1, 2), (2, 0)], [(1, 1)]])
def test_a_cycle_is_refused(pairs):
    with pytest.raises(ValueError, match="cycle"):
        best_rewards_of_order(Log(), 3, pairs)


@pytest.mark.parametrize("utility", [*MEMBERS.values(), NegativePower(gamma=2.0), Quantile()], ids=repr)
@pytest.mark.parametrize("trained", [False, True])
def test_two_tiers_are_two_points_under_every_utility(utility, trained):
    assert best_rewards_of_tiers(utility, [2, 3], trained=trained).rewards.tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("utility", "sizes", "middle"),
    # R / (1 - R) = (m_3 / m_1)^(1 / (1 - g)), m_3 / m_1, (m_3 / m_1)^(1 / (1 + g))
    [
        (Power(gamma=0.5), (2, 3, 3), 2.25 / 3.25),
        (Log(), (2, 3, 3), 0.6),
        (NegativePower(gamma=1.0), (2, 3, 3), 1.5**0.5 / (1 + 1.5**0.5)),
        (Power(gamma=0.5), (1, 4, 3), 0.9),
        (Log(), (1, 4, 3), 0.75),
        (NegativePower(gamma=1.0), (1, 4, 3), 3**0.5 / (1 + 3**0.5)),
    ],
    ids=repr,
)
def test_three_tiers(utility, sizes, middle):
    found = best_rewards_of_tiers(utility, sizes)
    expected = np.repeat([1.0, middle, 0.0], sizes)
    np.testing.assert_allclose(found.rewards, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.tails, np.minimum(expected, 1 - expected), rtol=0, atol=1e-13)


@pytest.mark.parametrize("utility", [Power(gamma=0.8), LogSigmoid(sigma=0.25)], ids=repr)
def test_tiers_are_the_order_of_their_members(utility):
    ranks = np.repeat([0, 1, 2, 3], [1, 3, 2, 4])
    one_by_one = best_rewards_of_order(utility, len(ranks), ranks[:, None] < ranks[None, :])
    tiers = best_rewards_of_tiers(utility, [1, 3, 2, 4])
    np.testing.assert_allclose(one_by_one.rewards, tiers.rewards, atol=1e-10)
    assert one_by_one.objective == pytest.approx(tiers.objective, rel=1e-12)
