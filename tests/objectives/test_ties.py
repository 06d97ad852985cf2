"""Rao-Kupper and Davidson: by hand, as three probabilities that sum to 1, and without ties Bradley-Terry."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import expit

from rlhf_jax.objectives.ranking import ranked_utility_loss
from rlhf_jax.objectives.ties import davidson_loss, rao_kupper_loss
from rlhf_jax.objectives.utilities import LogSigmoid

NAMES = ("rao_kupper", "davidson")
both = pytest.mark.parametrize("name", NAMES)


def loss(name, rewards, better, tied, parameter, dtype=jnp.float32):
    settings = {"rewards": jnp.asarray(rewards, dtype), "better": jnp.asarray(better), "tied": jnp.asarray(tied)}
    if name == "rao_kupper":
        return rao_kupper_loss(**settings, threshold=parameter)
    return davidson_loss(**settings, weight=parameter)


def gradient(name, rewards, better, tied, parameter, dtype=jnp.float32):
    rewards = jnp.asarray(rewards, dtype)
    return np.asarray(jax.grad(lambda r: loss(name, r, better, tied, parameter, dtype))(rewards), np.float64)


def judged(ranks) -> tuple[np.ndarray, np.ndarray]:
    """(better, tied) of ranks, 0 the best."""
    ranks = np.asarray(ranks)
    return ranks[:, None] < ranks[None, :], (ranks[:, None] == ranks[None, :]) & ~np.eye(len(ranks), dtype=bool)


def outcomes(name, gap, parameter) -> tuple[float, float, float]:
    """Probabilities that the first of a pair is better, that it is worse, that they tie: the textbook form."""
    a, b = math.exp(gap / 2), math.exp(-gap / 2)
    if name == "rao_kupper":
        theta = math.exp(parameter)
        return a / (a + theta * b), b / (b + theta * a), (theta**2 - 1) * a * b / ((a + theta * b) * (b + theta * a))
    total = a + b + parameter
    return a / total, b / total, parameter / total


def by_hand(name, rewards, ranks, parameter) -> float:
    found = []
    for i, j in itertools.combinations(range(len(rewards)), 2):
        better, worse, tie = outcomes(name, rewards[i] - rewards[j], parameter)
        found.append(tie if ranks[i] == ranks[j] else better if ranks[i] < ranks[j] else worse)
    return -sum(map(math.log, found)) / len(found)


def test_a_pair_by_hand() -> None:
    # e^r = 4, 1. Rao-Kupper with theta = 2: 4/6, 1/9, (4 - 1) 4 / (6 * 9) = 2/9. Davidson with weight 1/2: 4:1:1.
    rewards = np.log([4.0, 1.0])
    expected = {"rao_kupper": (math.log(2), 2 / 3, 1 / 9, 2 / 9), "davidson": (0.5, 4 / 6, 1 / 6, 1 / 6)}
    for name, (parameter, *probabilities) in expected.items():
        for ranks, probability in zip(((0, 1), (1, 0), (0, 0)), probabilities, strict=True):
            found = float(loss(name, rewards, *judged(ranks), parameter))
            assert found == pytest.approx(-math.log(probability), rel=1e-5), (name, ranks)


@both
@pytest.mark.parametrize("parameter", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("gap", [-4.0, 0.0, 0.3, 2.0])
def test_the_three_outcomes_of_a_pair_sum_to_one(name: str, parameter: float, gap: float) -> None:
    losses = [float(loss(name, (gap, 0.0), *judged(ranks), parameter)) for ranks in ((0, 1), (1, 0), (0, 0))]
    assert sum(math.exp(-one) for one in losses) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(np.exp(-np.array(losses)), outcomes(name, gap, parameter), rtol=2e-5)


@both
@pytest.mark.parametrize("ranks", [(0, 1, 2, 3), (1, 0, 0, 2), (0, 0, 0, 0), (0, 1, 1, 0)])
def test_a_list_is_the_mean_over_its_judgements(name: str, ranks: tuple[int, ...]) -> None:
    """Each tie counts once, though it is held at two places."""
    rewards = (0.3, -1.2, 0.9, 2.0)
    assert float(loss(name, rewards, *judged(ranks), 0.7)) == pytest.approx(
        by_hand(name, rewards, ranks, 0.7), rel=1e-5
    )


@both
def test_without_ties_it_is_bradley_terry(name: str) -> None:
    rewards, ranks = jnp.array([0.3, -1.2, 0.9, 2.0]), (1, 0, 3, 2)
    better, tied = judged(ranks)
    expected = ranked_utility_loss(
        rewards=rewards, ranks=jnp.array(ranks), mask=jnp.ones(4, bool), utility=LogSigmoid()
    )
    assert float(loss(name, rewards, better, tied, 1e-7)) == pytest.approx(float(expected), rel=1e-5)


@both
def test_a_tie_pulls_two_rewards_together_and_a_verdict_apart(name: str) -> None:
    tie = gradient(name, (1.5, 0.0), *judged((0, 0)), 0.7)
    # d log P(tie) / d gap: Rao-Kupper sigma(t - g) - sigma(t + g); Davidson -(P(better) - P(worse)) / 2
    slopes = {
        "rao_kupper": expit(0.7 + 1.5) - expit(0.7 - 1.5),
        "davidson": (outcomes("davidson", 1.5, 0.7)[0] - outcomes("davidson", 1.5, 0.7)[1]) / 2,
    }
    np.testing.assert_allclose(tie, (slopes[name], -slopes[name]), rtol=1e-5)
    assert tie[0] > 0 > gradient(name, (1.5, 0.0), *judged((0, 1)), 0.7)[0]
    np.testing.assert_allclose(gradient(name, (0.4, 0.4), *judged((0, 0)), 0.7), 0, atol=1e-7)


@both
@pytest.mark.parametrize("missing", [0.4, math.nan, math.inf, -math.inf])
def test_what_was_never_judged_may_hold_anything(name: str, missing: float) -> None:
    rewards = np.array([0.3, missing, 0.9, 2.0, missing])
    real = np.array([0, 2, 3])
    better, tied = np.zeros((5, 5), bool), np.zeros((5, 5), bool)
    better[np.ix_(real, real)], tied[np.ix_(real, real)] = judged((1, 0, 1))
    alone = (rewards[real], *judged((1, 0, 1)), 0.7)
    assert float(loss(name, rewards, better, tied, 0.7)) == pytest.approx(float(loss(name, *alone)), rel=1e-6)
    found = gradient(name, rewards, better, tied, 0.7)
    np.testing.assert_array_equal(found[[1, 4]], 0)
    np.testing.assert_allclose(found[real], gradient(name, *alone), rtol=1e-5)


@both
def test_without_a_judgement_there_is_neither_loss_nor_pull(name: str) -> None:
    nothing = np.zeros((3, 3), bool)
    assert float(loss(name, (0.1, math.nan, 0.5), nothing, nothing, 0.7)) == 0.0
    np.testing.assert_array_equal(gradient(name, (0.1, math.nan, 0.5), nothing, nothing, 0.7), np.zeros(3))


@both
def test_only_gaps_count_and_not_the_order_of_the_responses(name: str) -> None:
    rewards, ranks, place = np.array([0.3, -1.2, 0.9, 2.0]), np.array([1, 0, 0, 2]), np.array([3, 1, 0, 2])
    expected = float(loss(name, rewards, *judged(ranks), 0.7))
    assert float(loss(name, rewards + 5, *judged(ranks), 0.7)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(name, rewards[place], *judged(ranks[place]), 0.7)) == pytest.approx(expected, rel=1e-6)


@both
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("parameter", [1e-6, 0.5, 60.0, 1e4])
@pytest.mark.parametrize("gap", [0.0, 1e4, -1e4])
def test_large_gaps_and_parameters_stay_finite(name: str, dtype: jnp.dtype, parameter: float, gap: float) -> None:
    for ranks in ((0, 1), (0, 0)):
        assert np.isfinite(float(loss(name, (gap, 0.0), *judged(ranks), parameter, dtype)))
        assert np.all(np.isfinite(gradient(name, (gap, 0.0), *judged(ranks), parameter, dtype)))
    # Where ties are all but certain they cost nothing.
    if (parameter, gap) == (60.0, 0.0) and name == "rao_kupper":
        assert float(loss(name, (gap, 0.0), *judged((0, 0)), parameter, dtype)) == pytest.approx(0, abs=1e-5)


@both
def test_the_gradient_is_that_of_the_loss(name: str) -> None:
    with jax.enable_x64(True):
        better, tied = judged((1, 0, 0, 2))
        check_grads(
            lambda r: loss(name, r, better, tied, 0.7, jnp.float64),
            (jnp.array([0.3, -1.2, 0.9, 2.0]),),
            order=1,
            modes=["rev"],
        )
