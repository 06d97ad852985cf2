"""Best policies under every divergence: a table, direct optimisation, and the conditions of optimality."""

import numpy as np
import pytest
from scipy.optimize import linprog, minimize
from scipy.special import softmax, xlogy

from rlhf_jax.objectives.divergences import (
    ALL_DIVERGENCES,
    Alpha,
    ChiPO,
    ChiSquared,
    ForwardKL,
    HalfChiSquared,
    JensenShannon,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
)
from rlhf_jax.theory.policies import optimal_policy

REWARDS = np.array([1.0, 0.6, 0.3, 0.0, -0.5])
REFERENCE = np.array([0.1, 0.2, 0.3, 0.25, 0.15])
BETA = 0.5
TABLE = {
    ReverseKL(): ([0.32771116, 0.29450023, 0.24243773, 0.11087721, 0.02447367], 0.4065187861),
    ForwardKL(): ([0.4587833, 0.19646986, 0.18541778, 0.11271579, 0.04661327], 0.4239676558),
    JensenShannon(): ([0.74470482, 0.13120005, 0.0833394, 0.03386952, 0.00688621], 0.5830027268),
    Alpha(alpha=0.5): ([0.39770017, 0.24612337, 0.20783298, 0.11089755, 0.03744592], 0.4138861073),
    ChiSquared(): ([0.1765, 0.273, 0.3195, 0.19125, 0.03975], 0.3256375),
    HalfChiSquared(): ([0.24470588, 0.32941176, 0.31411765, 0.11176471, 0.0], 0.4065294118),
    ChiPO(): ([0.18316468, 0.26848037, 0.30555475, 0.18478396, 0.05801623], 0.3231022364),
    SquaredHellinger(): ([0.70325981, 0.14434858, 0.09499563, 0.04424352, 0.01315245], 0.5652960404),
    TotalVariation(): ([0.8, 0.2, 0.0, 0.0, 0.0], 0.57),
}
# f and f' once more, in NumPy.
F = {
    "reverse_kl": lambda u, a: xlogy(u, u),
    "forward_kl": lambda u, a: -np.log(u),
    "jensen_shannon": lambda u, a: xlogy(u, u) - (u + 1) * np.log((u + 1) / 2),
    "alpha": lambda u, a: (u ** (1 - a) - (1 - a) * u - a) / (a * (a - 1)),
    "chi_squared": lambda u, a: (u - 1) ** 2,
    "half_chi_squared": lambda u, a: (u - 1) ** 2 / 2,
    "chi_po": lambda u, a: (u - 1) ** 2 / 2 + xlogy(u, u),
    "hellinger": lambda u, a: (np.sqrt(u) - 1) ** 2,
    "total_variation": lambda u, a: np.abs(u - 1) / 2,
}
SLOPES = {
    "reverse_kl": lambda u, a: np.log(u) + 1,
    "forward_kl": lambda u, a: -1 / u,
    "jensen_shannon": lambda u, a: np.log(2 * u / (1 + u)),
    "alpha": lambda u, a: (1 - u**-a) / a,
    "chi_squared": lambda u, a: 2 * (u - 1),
    "half_chi_squared": lambda u, a: u - 1,
    "chi_po": lambda u, a: u + np.log(u),
    "hellinger": lambda u, a: 1 - u**-0.5,
}


def objective(policy, rewards, reference, beta, divergence):
    a = getattr(divergence, "alpha", None)
    return policy @ rewards - beta * np.sum(reference * F[divergence.name](policy / reference, a))


def directly(rewards, reference, beta, divergence):
    """The maximiser by an optimiser that knows nothing of multipliers and inverses."""
    if divergence == TotalVariation():  # maximise r p - beta sum t / 2 with t >= |p - ref|
        n = len(rewards)
        eye = np.eye(n)
        found = linprog(
            np.concatenate([-rewards, np.full(n, beta / 2)]),
            A_ub=np.block([[eye, -eye], [-eye, -eye]]),
            b_ub=np.concatenate([reference, -reference]),
            A_eq=[[1.0] * n + [0.0] * n],
            b_eq=[1.0],
        )
        return found.x[:n]
    a = getattr(divergence, "alpha", None)
    slope = SLOPES[divergence.name]
    if divergence.sparse:  # a quadratic programme
        return minimize(
            lambda p: -objective(p, rewards, reference, beta, divergence),
            reference,
            jac=lambda p: beta * slope(p / reference, a) - rewards,
            bounds=[(0.0, 1.0)] * len(rewards),
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones_like(p)},
            method="SLSQP",
            options={"ftol": 1e-16, "maxiter": 500},
        ).x

    def negative(logits):
        policy = softmax(logits)
        pull = rewards - beta * slope(policy / reference, a)
        return -objective(policy, rewards, reference, beta, divergence), -policy * (pull - policy @ pull)

    logits = np.log(reference)
    for _ in range(3):  # a fresh start forgets a poor estimate of the curvature
        logits = minimize(negative, logits, jac=True, method="BFGS", options={"gtol": 1e-13}).x
    return softmax(logits)


@pytest.mark.parametrize("divergence", TABLE, ids=repr)
def test_the_table_and_direct_optimisation(divergence):
    policy, value = TABLE[divergence]
    found = optimal_policy(REWARDS, REFERENCE, BETA, divergence)
    np.testing.assert_allclose(found.policy, policy, atol=1e-8)
    assert found.value == pytest.approx(value, abs=1e-9)
    assert found.policy.sum() == pytest.approx(1.0, abs=1e-15)
    np.testing.assert_allclose(found.policy, directly(REWARDS, REFERENCE, BETA, divergence), atol=1e-8)


@pytest.mark.parametrize("divergence", ALL_DIVERGENCES, ids=repr)
def test_random_bandits_satisfy_the_conditions_of_optimality(divergence):
    """r - beta f'(u) is lambda wherever there is mass, and no more than that where there is none."""
    rng = np.random.default_rng(0)
    for k in range(9):
        size = 1 if k == 0 else 6  # few shapes: each is compiled anew
        rewards, reference = rng.normal(size=size) * 10.0 ** rng.integers(-2, 2), rng.dirichlet(np.ones(size))
        beta = 10.0 ** rng.uniform(-1.5, 1.5)
        found = optimal_policy(rewards, reference, beta, divergence)
        assert found.policy.sum() == pytest.approx(1.0, abs=1e-14)
        assert found.value == pytest.approx(objective(found.policy, rewards, reference, beta, divergence), abs=1e-9)
        u = found.policy / reference
        marginal = (rewards - found.multiplier) / beta
        if divergence == TotalVariation():
            assert np.all(np.abs(marginal[np.abs(u - 1) < 1e-12]) <= 0.5 + 1e-9)
            assert np.all(marginal[u < 1e-12] <= -0.5)
            np.testing.assert_allclose(marginal[u > 1 + 1e-9], 0.5)
        else:
            slopes = SLOPES[divergence.name](u[u > 0], getattr(divergence, "alpha", None))
            # The slope of the best response comes close to its supremum, and its ratio is known as well as it allows.
            np.testing.assert_allclose(marginal[u > 0], slopes, rtol=1e-9, atol=1e-9)
            assert np.all(marginal[u == 0] <= divergence.slope_at_zero)
        if k < 4:
            for other in rng.dirichlet(np.ones(size), size=20):
                assert objective(other, rewards, reference, beta, divergence) <= found.value + 1e-12


@pytest.mark.parametrize(
    "divergence", [ForwardKL(), JensenShannon(), ChiPO(), HalfChiSquared(), Alpha(alpha=0.3)], ids=repr
)
def test_random_bandits_by_direct_optimisation(divergence):
    rng = np.random.default_rng(7)
    for _ in range(4):
        rewards, reference = rng.normal(size=4), rng.dirichlet(np.full(4, 3.0))
        found = optimal_policy(rewards, reference, 0.8, divergence)
        np.testing.assert_allclose(found.policy, directly(rewards, reference, 0.8, divergence), atol=1e-7)


@pytest.mark.parametrize("divergence", ALL_DIVERGENCES, ids=repr)
def test_limits_and_what_the_reference_never_gives(divergence):
    same = optimal_policy(np.full(5, 3.0), REFERENCE, BETA, divergence)
    np.testing.assert_allclose(same.policy, REFERENCE, atol=1e-15)
    assert same.value == pytest.approx(3.0)
    np.testing.assert_allclose(optimal_policy(REWARDS, REFERENCE, 1e6, divergence).policy, REFERENCE, atol=1e-5)
    greedy = optimal_policy(REWARDS, REFERENCE, 1e-5, divergence)
    assert greedy.policy[0] > 0.98  # of chi-squared nearly all, with heavy tails of the others
    padded = optimal_policy(np.append(REWARDS, np.nan), np.append(REFERENCE, 0.0), BETA, divergence)
    plain = optimal_policy(REWARDS, REFERENCE, BETA, divergence)
    np.testing.assert_array_equal(padded.policy, np.append(plain.policy, 0.0))
    shifted = optimal_policy(REWARDS + 5.0, REFERENCE, BETA, divergence)
    np.testing.assert_allclose(shifted.policy, plain.policy, atol=1e-12)
    assert shifted.multiplier == pytest.approx(plain.multiplier + 5.0)


def test_the_reverse_kl_by_its_closed_form():
    found = optimal_policy(REWARDS, REFERENCE, 0.01, ReverseKL())
    weights = REFERENCE * np.exp((REWARDS - 1.0) / 0.01)
    np.testing.assert_allclose(found.policy, weights / weights.sum(), rtol=1e-12)
    assert found.value == pytest.approx(1.0 + 0.01 * np.log(weights.sum()))
    assert np.isfinite(optimal_policy(REWARDS * 1e6, REFERENCE, 1e-3, ReverseKL()).value)


def test_ties_for_the_best_share_as_in_the_reference():
    found = optimal_policy(np.array([1.0, 1.0, -9.0]), np.array([0.1, 0.3, 0.6]), 1.0, TotalVariation())
    np.testing.assert_allclose(found.policy, [0.25, 0.75, 0.0])


@pytest.mark.parametrize(
    ("rewards", "reference", "beta", "words"),
    [
        ([1.0, 2.0], [0.5, 0.6], 1.0, "sum 1"),
        ([1.0, 2.0], [1.5, -0.5], 1.0, "probabilities"),
        ([1.0, 2.0], [0.5, np.nan], 1.0, "probabilities"),
        ([1.0, 2.0], [0.5, 0.5], 0.0, "positive price"),
        ([1.0, 2.0], [0.5, 0.5], np.nan, "positive price"),
        ([1.0, np.inf], [0.5, 0.5], 1.0, "finite"),
    ],
)
def test_bad_input_is_refused(rewards, reference, beta, words):
    with pytest.raises(ValueError, match=words):
        optimal_policy(np.array(rewards), np.array(reference), beta, ForwardKL())
