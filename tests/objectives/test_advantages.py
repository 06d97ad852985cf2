import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.advantages import (
    generalized_advantages,
    one_more,
    rewards_to_go,
    score_place,
    token_rewards,
)

F32 = jnp.float32


def rewards_of(score, mask, beta=0.1, logprobs=(-1.0, -2.0, -3.0, -9.0), ref=(-1.5, -1.0, -3.0, -1.0)):
    return np.asarray(
        token_rewards(
            score=jnp.asarray(score),
            logprobs=jnp.array(logprobs, F32),
            ref_logprobs=jnp.array(ref, F32),
            mask=jnp.asarray(mask),
            kl_coefficient=jnp.array(beta, F32),
        )
    )


def advantages_of(rewards, values, mask, gamma, lambda_):
    return np.asarray(
        generalized_advantages(
            rewards=jnp.asarray(rewards, F32),
            values=jnp.asarray(values, F32),
            mask=jnp.asarray(mask),
            gamma=gamma,
            lambda_=lambda_,
        )
    )


def test_the_score_stands_at_the_last_token_on_top_of_the_price_of_moving():
    # -0.1 * (0.5, -1, 0) = (-.05, .1, 0); the last token is the third; the fourth slot is masked
    rewards = rewards_of(F32(0.73), (True, True, True, False))
    np.testing.assert_allclose(rewards, (-0.05, 0.1, 0.73, 0.0), atol=1e-6)


def test_a_fractional_score_stays_fractional():
    rewards = rewards_of(F32(0.73), (True, True, False, False), beta=0.0)
    assert rewards.dtype == np.float32
    np.testing.assert_allclose(rewards, (0.0, 0.73, 0.0, 0.0), rtol=1e-6)


def test_masked_slots_may_hold_anything():
    rewards = rewards_of(
        F32(2.0), (True, True, False, False), logprobs=(-1, -2, np.nan, np.inf), ref=(-1, -2, 0.0, np.inf)
    )
    np.testing.assert_array_equal(rewards, (0.0, 2.0, 0.0, 0.0))


def test_an_empty_episode_earns_nothing():
    np.testing.assert_array_equal(rewards_of(F32(2.0), (False,) * 4), np.zeros(4))


def test_three_tokens_by_hand():
    # gamma = lambda = 1/2, r = (1, 2, 3), V = (1, 2, 4)
    # delta = (1 + 2/2 - 1, 2 + 4/2 - 2, 3 + 0 - 4) = (1, 2, -1)
    # A = (1 + 1.75/4, 2 - 1/4, -1) = (1.4375, 1.75, -1)
    advantages = advantages_of((1, 2, 3), (1, 2, 4), (True,) * 3, 0.5, 0.5)
    np.testing.assert_allclose(advantages, (1.4375, 1.75, -1.0), rtol=1e-6)


def test_a_masked_tail_is_as_if_it_were_not_there():
    mask = (True, True, True, False, False)
    advantages = advantages_of((1, 2, 3, np.nan, 9), (1, 2, 4, 100, np.nan), mask, 0.5, 0.5)
    np.testing.assert_allclose(advantages, (1.4375, 1.75, -1.0, 0.0, 0.0), rtol=1e-6)


@pytest.mark.parametrize(("gamma", "lambda_"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
@pytest.mark.parametrize("length", [7, 4, 1])
def test_against_the_double_sum(gamma, lambda_, length):
    rng = np.random.default_rng(3)
    rewards, values = rng.normal(size=7), rng.normal(size=7)
    expected = np.zeros(7)
    for t in range(length):
        for later in range(t, length):
            bootstrap = values[later + 1] if later + 1 < length else 0.0
            delta = rewards[later] + gamma * bootstrap - values[later]
            expected[t] += (gamma * lambda_) ** (later - t) * delta
    mask = np.arange(7) < length
    np.testing.assert_allclose(advantages_of(rewards, values, mask, gamma, lambda_), expected, rtol=1e-5, atol=1e-6)


def test_at_lambda_one_advantage_plus_value_is_the_discounted_return():
    # returns with gamma 1/2: 3, 2 + 1.5, 1 + 1.75
    values = np.array([5.0, -1.0, 0.3])
    advantages = advantages_of((1, 2, 3), values, (True,) * 3, 0.5, 1.0)
    np.testing.assert_allclose(advantages + values, (2.75, 3.5, 3.0), rtol=1e-6)


@pytest.mark.parametrize(("at", "place"), [("last", 1), ("after", 2), ("end", 3)])
def test_where_a_score_is_paid(at, place):
    # four tokens of which two are read, in six slots
    mask, read = (jnp.arange(6) < count for count in (4, 2))
    np.testing.assert_array_equal(np.flatnonzero(score_place(mask, read, at)), (place,))
    nothing = jnp.zeros(6, bool)
    assert not np.any(score_place(nothing, nothing, at))


def test_after_the_last_slot_there_is_none():
    full = jnp.ones(3, bool)
    np.testing.assert_array_equal(np.flatnonzero(score_place(full, full, "after")), (2,))
    np.testing.assert_array_equal(one_more(full), full)


def test_one_more_slot_has_a_value():
    masks = jnp.array([[True, True, False, False], [False] * 4])
    np.testing.assert_array_equal(one_more(masks), [[True, True, True, False], [False] * 4])


def test_the_return_is_the_advantage_of_one_who_foresees_nothing():
    # gamma 1/2: (1 + 1 + .75, 2 + 1.5, 3)
    found = rewards_to_go(jnp.array([1.0, 2.0, 3.0, 9.0]), jnp.arange(4) < 3, 0.5)
    np.testing.assert_allclose(found, (2.75, 3.5, 3.0, 0.0), rtol=1e-6)


def test_another_divergence_is_priced_in_its_place():
    rewards = token_rewards(
        score=F32(1.0),
        logprobs=jnp.zeros(3),
        ref_logprobs=jnp.ones(3),
        mask=jnp.ones(3, bool),
        kl_coefficient=F32(0.1),
        divergences=jnp.array([1.0, 2.0, 3.0]),
        place=jnp.array([False, True, False]),
    )
    np.testing.assert_allclose(rewards, (-0.1, 0.8, -0.3), rtol=1e-6)
