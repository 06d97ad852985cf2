"""Limit laws as functions, distances from them, and the inverse problem."""

import numpy as np
import pytest
from scipy.stats import beta

from rlhf_jax.objectives.utilities import Exponential, LimitLaw, Log, LogSigmoid, NegativePower, Power, Utility
from rlhf_jax.theory.inverse import slope_for
from rlhf_jax.theory.limits import cdf, kolmogorov_smirnov, quantile, wasserstein_1
from rlhf_jax.theory.optimum import best_rewards

GRID = (np.arange(200_000) + 0.5) / 200_000


@pytest.mark.parametrize(
    ("utility", "distances"),
    # At n = 20, 100 and 1000.
    [
        (Power(gamma=0.2), (0.012736, 0.002523)),
        (Power(gamma=0.5), (0.012533, 0.002501)),
        (Power(gamma=0.8), (0.012504, 0.002500)),
        (Log(), (0.013210, 0.002622, 0.000262)),
        (NegativePower(gamma=0.5), (0.017588, 0.005242)),
        (NegativePower(gamma=1.0), (0.028253, 0.014274)),
    ],
    ids=repr,
)
def test_best_rewards_approach_their_limit_law(utility, distances):
    for n, distance in zip((20, 100, 1000), distances, strict=False):
        measured = wasserstein_1(best_rewards(utility, n).rewards, utility.limit_law())
        assert measured == pytest.approx(distance, abs=1.1e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.25, 1.0])
def test_the_atoms_of_the_exponential(sigma):
    utility, n = Exponential(sigma=sigma), 300
    found = best_rewards(utility, n)
    assert np.mean(found.rewards == 1.0) == pytest.approx(sigma / (1 + 2 * sigma), abs=1 / n)
    inner = found.rewards[(found.rewards < 1) & (found.rewards > 0)]
    np.testing.assert_allclose(np.diff(inner), np.diff(inner).mean(), rtol=0.01)  # uniform between
    assert wasserstein_1(found.rewards, utility.limit_law()) < 0.3 / n
    assert kolmogorov_smirnov(found.rewards, utility.limit_law()) < 0.6 / n


def test_log_sigmoid_keeps_an_atom_at_each_end():
    # Without a closed form: measured at n = 1600 by another program.
    for sigma, atom in ((0.05, 0.0576), (0.25, 0.2040), (1.0, 0.3834)):
        assert np.mean(best_rewards(LogSigmoid(sigma=sigma), 200).rewards == 1.0) == pytest.approx(atom, abs=5e-3)


@pytest.mark.parametrize("law", [LimitLaw(0.3, 0.3), LimitLaw(2.0, 5.0), LimitLaw(atom=0.2), LimitLaw(2.0, 3.0, 0.1)])
def test_the_law_as_functions(law):
    x = np.linspace(0.0, 1.0, 11)
    expected = law.atom + (1 - 2 * law.atom) * beta.cdf(x, law.a, law.b)
    expected[-1] = 1.0
    np.testing.assert_allclose(cdf(law, x), expected, atol=1e-14)
    p = np.linspace(law.atom + 0.01, 1 - law.atom - 0.01, 9)
    np.testing.assert_allclose(cdf(law, quantile(law, p)), p, atol=1e-12)
    if law.atom:
        np.testing.assert_array_equal(quantile(law, np.array([0.0, law.atom, 1 - 0.5 * law.atom, 1.0])), [0, 0, 1, 1])


@pytest.mark.parametrize(
    "law", [LimitLaw(0.1, 0.1), LimitLaw(2.0, 5.0), LimitLaw(atom=0.2), LimitLaw(atom=0.5), LimitLaw(2.0, 3.0, 0.1)]
)
def test_wasserstein_is_the_area_between_the_quantiles(law):
    rewards = np.array([1.0, 0.93, 0.5, 0.5, 0.31, 0.0, 0.0, 0.0])
    area = np.mean(np.abs(np.repeat(np.sort(rewards), 25_000) - quantile(law, GRID)))
    assert wasserstein_1(rewards, law) == pytest.approx(area, abs=1e-5)


def test_distances_by_hand():
    uniform, ends = LimitLaw(), LimitLaw(atom=0.5)
    # One point at 1/2 against the uniform law: mean |u - 1/2| = 1/4, and half the mass is missing on either side.
    assert wasserstein_1(np.array([0.5]), uniform) == pytest.approx(0.25)
    assert kolmogorov_smirnov(np.array([0.5]), uniform) == pytest.approx(0.5)
    assert wasserstein_1(np.array([0.5, 0.5]), ends) == pytest.approx(0.5)
    assert kolmogorov_smirnov(np.array([0.5, 0.5]), ends) == pytest.approx(0.5)
    # (1, 1, 0, 0) is the law of two points; (1, 1, 1, 0) has a quarter of the mass too high.
    assert wasserstein_1(np.array([1.0, 1.0, 0.0, 0.0]), ends) == 0.0
    assert kolmogorov_smirnov(np.array([1.0, 1.0, 0.0, 0.0]), ends) == 0.0
    assert wasserstein_1(np.array([1.0, 1.0, 1.0, 0.0]), ends) == pytest.approx(0.25)
    assert kolmogorov_smirnov(np.array([1.0, 1.0, 1.0, 0.0]), ends) == pytest.approx(0.25)


def test_kolmogorov_smirnov_of_a_law_that_crowds_beyond_the_last_digit():
    # Beta(0.05, 0.05): many quantiles are 1 in float64. The law is rounded as they are, and the distance stays 1 / 2n.
    law, n = LimitLaw(0.05, 0.05), 40
    rewards = quantile(law, (np.arange(n) + 0.5) / n)
    assert np.sum(rewards == 1.0) > 1
    assert kolmogorov_smirnov(rewards, law) == pytest.approx(0.5 / n, abs=0.6 / n)


@pytest.mark.parametrize("utility", [Power(), Log(), NegativePower(), Exponential(), LogSigmoid(sigma=0.1)], ids=repr)
def test_a_utility_is_found_for_rewards_that_have_one(utility):
    n = 6
    wanted = best_rewards(utility, n).rewards
    found = slope_for(wanted)
    assert found.feasible
    assert np.all(found.masses >= 0)
    x = np.linspace(0.0, 1.0, 50)
    assert np.all(np.diff(found.slope(x)) <= 0)

    class Found(Utility):  # -s exp(-x / s) and s log sigmoid((x - c) / s) have the slopes of the mixture
        domain = (-np.inf, np.inf)

        def raw(self, x):
            import jax
            import jax.numpy as jnp

            total = 0.0 * x
            for (c, s), mass in zip(found.corners, found.masses, strict=True):
                if mass > 0 and np.isinf(s):
                    total = total + mass * x
                elif mass > 0 and np.isinf(c):
                    total = total - mass * s * jnp.exp(-x / s)
                elif mass > 0:
                    total = total + mass * s * jax.nn.log_sigmoid((x - c) / s)
            return total

    np.testing.assert_allclose(best_rewards(Found(), n).rewards, wanted, atol=1e-6)


@pytest.mark.parametrize(
    "wanted",
    [
        beta.ppf(np.linspace(1.0, 0.0, 8), 2.0, 2.0),  # a bell: the outermost gap is the largest
        np.array([1.0, 0.95, 0.9, 0.6, 0.5, 0.0]),  # lopsided
    ],
    ids=["bell", "lopsided"],
)
def test_no_utility_of_the_gap_alone_will_do(wanted):
    found = slope_for(wanted)
    assert not found.feasible
    assert found.residual > 0.05


@pytest.mark.parametrize(
    "utility",
    [Power(gamma=0.2), Log(), NegativePower(gamma=3.0), LogSigmoid(sigma=0.02), Exponential(sigma=0.02)],
    ids=repr,
)
@pytest.mark.parametrize("n", [4, 9, 30])
def test_the_outermost_gap_is_the_smaller(utility, n):
    r = best_rewards(utility, n).rewards
    assert r[0] - r[1] < r[1] - r[2]


def test_the_found_slope_balances_gaps_of_very_different_size():
    """Pull by pull, with the slope as a function: the gaps go from 3e-5 to 0.6. The mean force on a response is 1."""
    r = best_rewards(Power(gamma=0.8), 8).rewards
    found = slope_for(r)
    assert found.feasible
    forces = []
    for i in range(1, 7):
        up, down = (float(np.sum(found.slope(np.abs(r[i] - others)))) for others in (r[i + 1 :], r[:i]))
        assert up == pytest.approx(down, rel=1e-9)
        forces.append(up + down)
    assert np.mean(forces) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("wanted", [(1.0, 0.5, 0.5, 0.0), (0.9, 0.5, 0.3, 0.0), (1.0, 0.5, 0.3, 0.1), (1.0,)], ids=str)
def test_wanted_rewards_have_to_descend_from_one_to_zero(wanted):
    with pytest.raises(ValueError, match="descend"):
        slope_for(np.array(wanted))
