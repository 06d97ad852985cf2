import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.ppo import (
    adapt_kl_coefficient,
    clipped_policy_loss,
    clipped_value_loss,
    mean_weights,
    missing_eos_scores,
)


def policy_loss(logprobs, old, advantages, clip=0.2):
    return clipped_policy_loss(
        logprobs=logprobs, old_logprobs=jnp.asarray(old), advantages=jnp.asarray(advantages), clip=clip
    )


def test_the_surrogate_in_its_six_cases():
    # rho       1.5   1.5   0.5   0.5   1.1   0.9
    # A           1    -1     1    -1     2    -2
    # unclipped-1.5   1.5  -0.5   0.5  -2.2   1.8
    # clipped  -1.2   1.2  -0.8   0.8  -2.2   1.8
    # max      -1.2   1.5  -0.5   0.8  -2.2   1.8
    ratio = jnp.array([1.5, 1.5, 0.5, 0.5, 1.1, 0.9])
    advantages = jnp.array([1.0, -1.0, 1.0, -1.0, 2.0, -2.0])
    old = jnp.full(6, -1.0)
    logprobs = old + jnp.log(ratio)
    np.testing.assert_allclose(policy_loss(logprobs, old, advantages), (-1.2, 1.5, -0.5, 0.8, -2.2, 1.8), rtol=1e-5)
    # d(-A rho)/dlogp = -A rho, and nothing where the clipped branch holds
    gradient = jax.grad(lambda x: jnp.sum(policy_loss(x, old, advantages)))(logprobs)
    np.testing.assert_allclose(gradient, (0.0, 1.5, -0.5, 0.0, -2.2, 1.8), rtol=1e-5)


def test_before_the_first_update_the_gradient_is_the_policy_gradient():
    old, advantages = jnp.array([-1.0, -2.0]), jnp.array([0.5, -3.0])
    gradient = jax.grad(lambda x: jnp.sum(policy_loss(x, old, advantages)))(old)
    np.testing.assert_allclose(gradient, (-0.5, 3.0), rtol=1e-6)


def test_the_value_loss_takes_the_worse_of_the_two():
    # old 0, clip .2, return 1
    # V         0.1   1.0     -1    1.5
    # clipped   0.1   0.2   -0.2    0.2
    # (V-G)^2   .81     0      4    .25
    # (c-G)^2   .81   .64   1.44    .64
    values = jnp.array([0.1, 1.0, -1.0, 1.5])
    loss = clipped_value_loss(values=values, old_values=jnp.zeros(4), returns=jnp.ones(4), clip=0.2)
    np.testing.assert_allclose(loss, (0.405, 0.32, 2.0, 0.32), rtol=1e-5)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        # error clip(kl / 6 - 1, +-.2); 512 episodes of 10,000: beta (1 + error * .0512)
        (6.0, 0.1),
        (6.6, 0.1 * (1 + 0.1 * 0.0512)),
        (60.0, 0.1 * (1 + 0.2 * 0.0512)),
        (5.4, 0.1 * (1 - 0.1 * 0.0512)),
        (-1.0, 0.1 * (1 - 0.2 * 0.0512)),
    ],
)
def test_the_kl_controller(kl, expected):
    beta = adapt_kl_coefficient(
        coefficient=jnp.array(0.1), kl=jnp.array(kl), target=6.0, episodes=512, horizon=10_000.0
    )
    assert float(beta) == pytest.approx(expected, rel=1e-6)


def test_a_missing_end_replaces_the_score():
    scores, has_eos = jnp.array([0.73, 0.73, 2.5]), jnp.array([True, False, False])
    np.testing.assert_allclose(missing_eos_scores(scores, has_eos, -1.0), (0.73, -1.0, -1.0), rtol=1e-6)
    np.testing.assert_allclose(missing_eos_scores(scores, has_eos, 0.0), (0.73, 0.0, 0.0), rtol=1e-6)
    np.testing.assert_array_equal(missing_eos_scores(scores, has_eos, None), scores)


def test_a_missing_end_takes_something_away():
    # TRL subtracts its penalty of 1, which is -1 added.
    scores, has_eos = jnp.array([0.73, 0.73, 2.5]), jnp.array([True, False, False])
    np.testing.assert_allclose(missing_eos_scores(scores, has_eos, -1.0, added=True), (0.73, -0.27, 1.5), rtol=1e-5)


def test_clip_higher_lets_good_tokens_rise_further():
    # rho 1.5 with A = 1: clipped to 1.2, or to 1.28 (DAPO); below 1 and for A < 0 nothing changes.
    logprobs, old, advantages = jnp.log(jnp.array([1.5, 0.5, 1.5])), jnp.zeros(3), jnp.array([1.0, -1.0, -1.0])
    both = {"logprobs": logprobs, "old_logprobs": old, "advantages": advantages, "clip": 0.2}
    np.testing.assert_allclose(clipped_policy_loss(**both), (-1.2, 0.8, 1.5), rtol=1e-5)
    np.testing.assert_allclose(clipped_policy_loss(**both, clip_high=0.28), (-1.28, 0.8, 1.5), rtol=1e-5)


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        # losses (1 2 3 .), (4 . . .), nothing: over tokens 10 / 4; over sequences (2 + 4) / 2; over 3 rows of 4 slots
        ("tokens", 2.5),
        ("sequences", 3.0),
        ("constant", 10 / 12),
    ],
)
def test_three_means_of_a_loss(mean, expected):
    losses = np.array([[1.0, 2.0, 3.0, 9.0], [4.0, 9.0, 9.0, 9.0], [9.0] * 4])
    mask = jnp.array([[True, True, True, False], [True, False, False, False], [False] * 4])
    weights, rows = mean_weights(mask, mean)
    assert float(jnp.sum(weights * losses) / jnp.sum(rows)) == pytest.approx(expected)
