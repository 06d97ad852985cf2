"""Descent on our own loss ends at the rewards that the solver of ``rlhf_jax.theory`` finds by other means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_jax.objectives.ranking import ranked_utility_loss
from rlhf_jax.objectives.utilities import Exponential, Linear, Log, LogSigmoid, NegativePower, Power, Quantile
from rlhf_jax.theory.optimum import best_rewards, best_rewards_of_tiers

TINY = 1e-4  # below the smallest gap, so that the optimum is that of U itself


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def descend(utility, ranks):
    """The rewards in [0, 1] that ``ranked_utility_loss`` is smallest at, by its gradient (L-BFGS-B)."""
    ranks, mask = np.asarray(ranks), jnp.ones(len(ranks), bool)
    loss = jax.jit(
        jax.value_and_grad(
            lambda r: ranked_utility_loss(rewards=r, ranks=jnp.asarray(ranks), mask=mask, utility=utility)
        )
    )

    def numpy_loss(r):
        value, gradient = loss(jnp.asarray(r))
        return float(value), np.asarray(gradient)

    start = np.linspace(0.9, 0.1, ranks.max() + 1)[ranks]
    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-16, "gtol": 1e-10, "maxcor": 30}
    bounds = [(0.0, 1.0)] * len(ranks)
    return minimize(numpy_loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options).x


@pytest.mark.parametrize(
    "utility",
    [
        Power(gamma=0.5, epsilon=TINY),
        Log(epsilon=0.1),
        Log(epsilon=0.1, extension="shift"),
        NegativePower(gamma=1.0, epsilon=TINY),
        LogSigmoid(sigma=0.25),
        Linear(),
        Exponential(sigma=0.25),
        Quantile(a=2.0, b=5.0, epsilon=1e-2),
    ],
    ids=repr,
)
def test_descent_on_the_loss_ends_at_the_optimum(utility):
    np.testing.assert_allclose(descend(utility, range(8)), best_rewards(utility, 8, trained=True).rewards, atol=1e-4)


@pytest.mark.parametrize("utility", [Power(epsilon=TINY), Log(epsilon=TINY), Exponential()], ids=repr)
def test_and_so_it_does_on_tiers(utility):
    ranks = (0, 0, 1, 1, 1, 2, 2, 2)
    best = best_rewards_of_tiers(utility, [2, 3, 3], trained=True).rewards
    np.testing.assert_allclose(descend(utility, ranks), best, atol=1e-4)
