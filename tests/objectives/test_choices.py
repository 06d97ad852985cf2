"""Plackett-Luce: by hand, as the probability of an order, and where it becomes Bradley-Terry or a softmax."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from rlhf_jax.objectives.choices import plackett_luce_loss
from rlhf_jax.objectives.ranking import ranked_utility_loss
from rlhf_jax.objectives.utilities import LogSigmoid


def beats(*pairs: tuple[int, int], size: int) -> np.ndarray:
    better = np.zeros((size, size), bool)
    for i, j in pairs:
        better[i, j] = True
    return better


def full(order: tuple[int, ...]) -> np.ndarray:
    """The comparisons of a full order, best first."""
    return beats(*((order[i], order[j]) for i, j in itertools.combinations(range(len(order)), 2)), size=len(order))


def loss(rewards, better, top=0, dtype=jnp.float32):
    return plackett_luce_loss(rewards=jnp.asarray(rewards, dtype), better=jnp.asarray(better), top=top)


def gradient(rewards, better, top=0):
    return np.asarray(jax.grad(lambda r: loss(r, better, top))(jnp.asarray(rewards, jnp.float32)))


def likelihood(rewards, order) -> float:
    """Probability that an annotator names the responses in this order, each time choosing among what is left."""
    left, found = list(order), 1.0
    for chosen in order:
        found *= math.exp(rewards[chosen]) / sum(math.exp(rewards[one]) for one in left)
        left.remove(chosen)
    return found


def test_three_rewards_by_hand() -> None:
    # e^r = 6, 3, 1: first choice 6/10, then 3/4; two choices
    rewards = np.log([6.0, 3.0, 1.0])
    assert float(loss(rewards, full((0, 1, 2)))) == pytest.approx(-math.log(0.6 * 0.75) / 2, rel=1e-6)
    # d/dr_0: (6/10 - 1)/2; r_1: (3/10 + 3/4 - 1)/2; r_2: (1/10 + 1/4)/2
    np.testing.assert_allclose(gradient(rewards, full((0, 1, 2))), [-0.2, 0.025, 0.175], atol=1e-6)
    assert float(loss(rewards, full((0, 1, 2)), top=1)) == pytest.approx(-math.log(0.6), rel=1e-6)


def test_the_orders_of_a_list_have_the_probabilities_of_one_distribution() -> None:
    rewards = (0.3, -1.2, 0.9, 2.0)
    found = {order: math.exp(-3 * float(loss(rewards, full(order)))) for order in itertools.permutations(range(4))}
    assert sum(found.values()) == pytest.approx(1, rel=1e-5)
    for order, probability in found.items():
        assert probability == pytest.approx(likelihood(rewards, order), rel=1e-5)


@pytest.mark.parametrize("gap", [-3.0, 0.0, 0.7])
def test_a_pair_is_bradley_terry(gap: float) -> None:
    rewards = jnp.array([0.4, 0.4 + gap])
    pair = ranked_utility_loss(rewards=rewards, ranks=jnp.array([1, 0]), mask=jnp.ones(2, bool), utility=LogSigmoid())
    assert float(loss(rewards, full((1, 0)))) == pytest.approx(float(pair), rel=1e-6)


def test_the_best_alone_is_a_softmax_over_the_list() -> None:
    rewards = np.array([0.3, -1.2, 0.9, 2.0])
    first = optax.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(rewards), 2)
    assert float(loss(rewards, full((2, 0, 3, 1)), top=1)) == pytest.approx(float(first), rel=1e-5)
    # Which of the others is better is not asked.
    np.testing.assert_allclose(gradient(rewards, full((2, 0, 3, 1)), 1), gradient(rewards, full((2, 3, 1, 0)), 1))


@pytest.mark.parametrize("top", [1, 2, 3])
def test_the_best_k_are_the_first_k_choices(top: int) -> None:
    rewards, order = (0.3, -1.2, 0.9, 2.0, 0.1), (2, 0, 3, 1, 4)
    chosen = [likelihood(rewards, order[place:]) / likelihood(rewards, order[place + 1 :]) for place in range(top)]
    assert float(loss(rewards, full(order), top)) == pytest.approx(-sum(map(math.log, chosen)) / top, rel=1e-5)
    assert float(loss(rewards, full(order), 9)) == float(loss(rewards, full(order)))


def test_tied_responses_are_left_out_of_each_others_choices() -> None:
    # 0 and 1 tie above 2, e^r = 6, 3, 1: chosen from {0, 2} and from {1, 2}
    better = beats((0, 2), (1, 2), size=3)
    expected = -(math.log(6 / 7) + math.log(3 / 4)) / 2
    assert float(loss(np.log([6.0, 3.0, 1.0]), better)) == pytest.approx(expected, rel=1e-6)
    assert float(loss(np.log([6.0, 3.0, 1.0]), better, top=1)) == pytest.approx(expected, rel=1e-6)


def test_a_partial_order_is_read_choice_by_choice() -> None:
    # 0 > 1 and 2 > 3, never compared across: two Bradley-Terry pairs
    rewards = (0.3, -1.2, 0.9, 2.0)
    expected = (math.log1p(math.exp(-1.5)) + math.log1p(math.exp(1.1))) / 2
    assert float(loss(rewards, beats((0, 1), (2, 3), size=4))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("missing", [0.4, math.nan, math.inf, -math.inf])
def test_what_was_never_judged_may_hold_anything(missing: float) -> None:
    better = beats((0, 2), (0, 3), (2, 3), size=5)
    rewards = np.array([0.3, missing, 0.9, 2.0, missing])
    alone = full((0, 1, 2))
    assert float(loss(rewards, better)) == pytest.approx(float(loss(rewards[[0, 2, 3]], alone)), rel=1e-6)
    found = gradient(rewards, better)
    np.testing.assert_array_equal(found[[1, 4]], 0)
    np.testing.assert_allclose(found[[0, 2, 3]], gradient(rewards[[0, 2, 3]], alone), rtol=1e-5)


def test_without_a_comparison_there_is_neither_loss_nor_pull() -> None:
    nothing = np.zeros((3, 3), bool)
    assert float(loss((0.1, math.nan, 0.5), nothing)) == 0.0
    np.testing.assert_array_equal(gradient((0.1, math.nan, 0.5), nothing), np.zeros(3))


def test_only_gaps_count_and_not_the_order_of_the_responses() -> None:
    rewards, order, place = np.array([0.3, -1.2, 0.9, 2.0]), (2, 0, 3, 1), np.array([3, 1, 0, 2])
    expected = float(loss(rewards, full(order)))
    assert float(loss(rewards + 5, full(order))) == pytest.approx(expected, rel=1e-5)
    assert float(loss(rewards[place], full(order)[np.ix_(place, place)])) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_large_gaps_stay_finite(dtype: jnp.dtype) -> None:
    for rewards in ((3e4, 0.0, -3e4), (-3e4, 0.0, 3e4)):
        found, slope = jax.value_and_grad(lambda r: loss(r, full((0, 1, 2)), dtype=dtype))(jnp.asarray(rewards, dtype))
        assert np.isfinite(float(found))
        assert np.all(np.isfinite(np.asarray(slope, np.float32)))
    assert float(found) == pytest.approx((6e4 + 3e4) / 2, rel=1e-2)


def test_the_gradient_is_that_of_the_loss() -> None:
    with jax.enable_x64(True):
        rewards, better = jnp.array([0.3, -1.2, 0.9, 2.0]), full((2, 0, 3, 1))
        for top in (0, 1, 2):
            check_grads(lambda r, top=top: loss(r, better, top, jnp.float64), (rewards,), order=1, modes=["rev"])
