"""Members to one reward: by hand, at the limits, and in the order that the definitions force."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.aggregation import aggregate, spread

HOWS = ("mean", "worst", "uncertainty", "lower")
#                        a    b    c
MEMBERS = jnp.array([[0.1, 0.5, 1.0], [0.3, 0.5, 0.0], [0.8, 0.5, 0.5], [0.4, 0.5, 0.5]])


def test_by_hand() -> None:
    """a: mean 0.4, deviations -.3 -.1 .4 0, variance .26 / 4; b: all alike; c: mean .5, variance .5 / 4."""
    variance = np.array([0.065, 0.0, 0.125])
    np.testing.assert_allclose(aggregate(MEMBERS, "mean", 9.0), [0.4, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(aggregate(MEMBERS, "worst", 9.0), [0.1, 0.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(aggregate(MEMBERS, "uncertainty", 2.0), [0.27, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(aggregate(MEMBERS, "lower", 2.0), [0.4, 0.5, 0.5] - 2 * variance**0.5, rtol=1e-5)
    np.testing.assert_allclose(spread(MEMBERS), variance**0.5, rtol=1e-6)


@pytest.mark.parametrize("how", HOWS)
def test_one_member_is_its_own_aggregate_to_the_bit(how: str) -> None:
    rewards = jnp.asarray(np.random.default_rng(0).normal(size=(1, 50)), jnp.float32)
    np.testing.assert_array_equal(aggregate(rewards, how, 0.7), rewards[0])


@pytest.mark.parametrize("how", ["uncertainty", "lower"])
def test_without_a_penalty_it_is_the_mean(how: str) -> None:
    rewards = jnp.asarray(np.random.default_rng(1).normal(size=(5, 50)), jnp.float32)
    np.testing.assert_array_equal(aggregate(rewards, how, 0.0), aggregate(rewards, "mean", 0.0))


@pytest.mark.parametrize("how", HOWS)
def test_the_order_of_members_and_a_common_shift_do_not_matter(how: str) -> None:
    rewards = np.random.default_rng(2).normal(size=(5, 50))
    given = np.asarray(aggregate(jnp.asarray(rewards), how, 0.7))
    np.testing.assert_allclose(aggregate(jnp.asarray(rewards[::-1]), how, 0.7), given, atol=1e-5)
    np.testing.assert_allclose(aggregate(jnp.asarray(rewards + 3.0), how, 0.7), given + 3.0, atol=1e-5)


def test_the_worst_lies_at_most_root_m_minus_one_deviations_below_the_mean() -> None:
    """Samuelson's inequality, met with equality where all members but one agree."""
    rewards = jnp.asarray(np.random.default_rng(3).normal(size=(5, 200)), jnp.float32)
    assert np.all(aggregate(rewards, "worst", 0.0) >= aggregate(rewards, "lower", 2.0) - 1e-5)
    one_off = jnp.array([[0.0], [1.0], [1.0], [1.0], [1.0]])
    np.testing.assert_allclose(aggregate(one_off, "worst", 0.0), aggregate(one_off, "lower", 2.0), atol=1e-6)
