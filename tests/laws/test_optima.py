"""The rewards that each utility asks for, found with our own loss and gradient, against known optima.

For U increasing and strictly concave the maximum of sum_{i<j} U(r_i - r_j) over [0, 1]^n is unique and symmetric about
1/2; the tables below were computed with another program, by Newton's method in 40 digits.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import legendre
from scipy.optimize import minimize
from scipy.stats import beta

from rlhf_jax.objectives.ranking import ranked_utility_loss
from rlhf_jax.objectives.utilities import Linear, Log, LogSigmoid, NegativePower, Power

TINY = 1e-4  # below the smallest gap of every table, so that the optimum is that of U itself


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def optimum(utility, ranks):
    """(r*, the largest sum of utilities) for responses of the given ranks, rewards confined to [0, 1]."""
    ranks = np.asarray(ranks)
    pairs = int(np.sum(ranks[:, None] < ranks[None, :]))
    mask = jnp.ones(len(ranks), bool)
    objective = jax.jit(
        jax.value_and_grad(
            lambda r: pairs * ranked_utility_loss(rewards=r, ranks=jnp.asarray(ranks), mask=mask, utility=utility)
        )
    )

    def numpy_objective(r):
        loss, gradient = objective(jnp.asarray(r))
        return float(loss), np.asarray(gradient)

    start = np.linspace(0.9, 0.1, ranks.max() + 1)[ranks]
    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30}
    found = minimize(
        numpy_objective, start, jac=True, bounds=[(0.0, 1.0)] * len(ranks), method="L-BFGS-B", options=options
    )
    return found.x, -found.fun


def mirrored(half, n):
    """r* from the distances to the nearest end point of its better half."""
    upper = [1.0 - t for t in half]
    return np.array(upper + [0.5] * (n % 2) + [1.0 - r for r in reversed(upper)])


TABLE = [
    (Power(gamma=0.2, epsilon=TINY), 5, 8.598316712185, (0.0, 0.143538760967)),
    (Power(gamma=0.5, epsilon=TINY), 5, 7.1112702897436, (0.0, 0.0747557761932)),
    (Power(gamma=0.5, epsilon=TINY), 8, 18.686143933346, (0.0, 0.0111456555096, 0.0975172372893, 0.335322219032)),
    (Log(epsilon=TINY), 5, -7.9353558109312, (0.0, 0.172673164646)),
    (Log(epsilon=TINY), 8, -27.484918475808, (0.0, 0.0641299257452, 0.204149909283, 0.395350391049)),
    (NegativePower(gamma=0.5, epsilon=TINY), 5, -15.469561104212, (0.0, 0.21247558801)),
    (
        NegativePower(gamma=0.5, epsilon=TINY),
        8,
        -48.875859140832,
        (0.0, 0.101209010406, 0.247375203476, 0.413752668735),
    ),
    (NegativePower(gamma=1.0, epsilon=TINY), 5, -25.552297370488, (0.0, 0.230237378782)),
    (
        NegativePower(gamma=1.0, epsilon=TINY),
        8,
        -95.419245965841,
        (0.0, 0.120759353052, 0.266560784734, 0.421349349575),
    ),
    (LogSigmoid(sigma=0.25), 5, -1.7041766759763, (0.0, 0.180814548516)),
    (LogSigmoid(sigma=0.25), 8, -5.7536212139941, (0.0, 0.0, 0.195167219379, 0.400041490293)),
    (LogSigmoid(sigma=4.0), 8, -17.532796884781, (0.0, 0.0, 0.0, 0.0)),
    # x: sum_i (n + 1 - 2 i) r_i = 7 + 5 + 3 + 1
    (Linear(), 8, 16.0, (0.0, 0.0, 0.0, 0.0)),
]


@pytest.mark.parametrize(("utility", "n", "best", "half"), TABLE, ids=lambda value: repr(value)[:40])
def test_the_optimum_of_a_full_order(utility, n, best, half):
    rewards, total = optimum(utility, range(n))
    np.testing.assert_allclose(rewards, mirrored(half, n), atol=5e-5)
    assert total == pytest.approx(best, rel=1e-7)


@pytest.mark.parametrize("n", [4, 7])
def test_log_asks_for_the_gauss_lobatto_points(n):
    # The maximisers of prod |r_i - r_j| on an interval are the roots of (1 - x^2) P'_{n-1}(x) (Fekete, Stieltjes).
    inner = legendre.legroots(legendre.legder([0.0] * (n - 1) + [1.0]))
    points = (1.0 + np.concatenate([[-1.0], np.sort(inner), [1.0]])) / 2.0
    np.testing.assert_allclose(optimum(Log(epsilon=TINY), range(n))[0][::-1], points, atol=5e-5)


@pytest.mark.parametrize(
    ("utility", "ascending"),
    [
        (Log(extension="shift", epsilon=0.1), (0, 0, 0.146304, 0.372788, 0.627212, 0.853696, 1, 1)),
        (
            NegativePower(gamma=1.0, extension="shift", epsilon=0.1),
            (0, 0.089133, 0.241260, 0.412028, 0.587972, 0.758740, 0.910867, 1),
        ),
    ],
    ids=["log", "inverse"],
)
def test_the_shift_moves_the_optimum(utility, ascending):
    np.testing.assert_allclose(optimum(utility, range(8))[0][::-1], ascending, atol=5e-5)


@pytest.mark.parametrize("utility", [Power(epsilon=TINY), Log(epsilon=TINY), LogSigmoid(sigma=0.25)], ids=repr)
def test_two_tiers_are_two_points_under_every_utility(utility):
    rewards, _ = optimum(utility, (0, 0, 1, 1, 1))
    np.testing.assert_allclose(rewards, (1, 1, 0, 0, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("utility", "middle"),
    # R / (1 - R) = (m_3 / m_1)^(1 / (1 - g)), m_3 / m_1, (m_3 / m_1)^(1 / (1 + g)) with tiers of 2, 3 and 3
    [
        (Power(gamma=0.5, epsilon=TINY), 2.25 / 3.25),
        (Log(epsilon=TINY), 0.6),
        (NegativePower(gamma=1.0, epsilon=TINY), 1.5**0.5 / (1 + 1.5**0.5)),
    ],
    ids=["power", "log", "inverse"],
)
def test_three_tiers(utility, middle):
    rewards, _ = optimum(utility, (0, 0, 1, 1, 1, 2, 2, 2))
    np.testing.assert_allclose(rewards, [1, 1, middle, middle, middle, 0, 0, 0], atol=5e-5)


@pytest.mark.parametrize(
    ("utility", "shape", "distance"),
    # The limit of the empirical law is Beta(a, a), a = (1 - g)/2, 1/2, (1 + g)/2; its distance from n = 20 points.
    [
        (Power(gamma=0.2, epsilon=TINY), 0.4, 0.012736),
        (Log(epsilon=TINY), 0.5, 0.013210),
        (NegativePower(gamma=0.5, epsilon=TINY), 0.75, 0.017588),
    ],
    ids=["power", "log", "negative_power"],
)
def test_twenty_responses_are_near_the_limit_law(utility, shape, distance):
    rewards = np.sort(optimum(utility, range(20))[0])
    grid = (np.arange(200_000) + 0.5) / 200_000
    measured = np.mean(np.abs(np.repeat(rewards, 10_000) - beta.ppf(grid, shape, shape)))
    assert measured == pytest.approx(distance, rel=5e-3)
