from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from rlhf_jax.models import (
    DecoderSpec,
    apply_decoder,
    apply_reward_model,
    apply_value_model,
    init_decoder,
    init_scalar_head,
    last_token,
    positions_of,
    value_from_reward,
)

SPEC = DecoderSpec(vocab_size=11, width=16, depth=2, heads=4, kv_heads=2, mlp_width=24)
IDS = np.random.default_rng(0).integers(0, 11, (4, 6)).astype(np.int32)
#   right padding, left padding, none, both
MASK = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [1] * 6, [0, 1, 1, 1, 0, 0]], bool)
LAST = (2, 5, 5, 3)


decode = jax.jit(apply_decoder, static_argnums=0)
reward_model = jax.jit(apply_reward_model, static_argnums=0, static_argnames="bounded")
value_model = jax.jit(apply_value_model, static_argnums=0)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(partial(init_decoder, SPEC), jax.random.key(0))
    decoder = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, leaf.dtype), shapes)
    return {
        "decoder": decoder,
        "head": {"kernel": jnp.asarray(rng.normal(size=16), jnp.float32)},
    }


def logits_of(params):
    mask = jnp.asarray(MASK)
    hidden = decode(SPEC, params["decoder"], jnp.asarray(IDS), positions_of(mask), mask)
    last = np.asarray(hidden, np.float64)[np.arange(4), LAST]
    return last @ np.asarray(params["head"]["kernel"], np.float64)


def test_last_token_wherever_the_padding_is():
    np.testing.assert_array_equal(last_token(jnp.asarray(MASK)), LAST)
    assert last_token(jnp.zeros((1, 4), bool)).tolist() == [0]


def test_the_reward_is_read_at_the_last_real_token(params):
    expected = logits_of(params)
    assert np.ptp(expected) > 0.1
    ids, mask = jnp.asarray(IDS), jnp.asarray(MASK)
    np.testing.assert_allclose(reward_model(SPEC, params, ids, mask, bounded=False), expected, atol=1e-5)
    np.testing.assert_allclose(reward_model(SPEC, params, ids, mask, bounded=True), expit(expected), atol=1e-5)


def test_what_stands_in_the_padding_does_not_matter(params):
    garbage = np.where(MASK, IDS, (IDS + 1) % 11)
    rewards = [reward_model(SPEC, params, jnp.asarray(x), jnp.asarray(MASK), bounded=True) for x in (IDS, garbage)]
    np.testing.assert_allclose(*rewards, atol=1e-6)


def test_a_bounded_reward_stays_in_the_unit_interval(params):
    extreme = params | {"head": {"kernel": 1e4 * params["head"]["kernel"]}}
    rewards = np.asarray(reward_model(SPEC, extreme, jnp.asarray(IDS), jnp.asarray(MASK), bounded=True))
    np.testing.assert_allclose(rewards, expit(1e4 * logits_of(params)), atol=1e-6)
    assert set(np.round(rewards, 6)) == {0.0, 1.0}


def test_a_value_is_there_at_every_token_and_knows_only_its_past(params):
    ids, mask = jnp.asarray(IDS), jnp.asarray(MASK)
    values = np.asarray(value_model(SPEC, params, ids, mask))
    assert values.shape == (4, 6)
    np.testing.assert_allclose(values[np.arange(4), LAST], logits_of(params), atol=1e-5)
    later = ids.at[2, 4].set((ids[2, 4] + 1) % 11)
    changed = np.asarray(value_model(SPEC, params, later, mask))
    np.testing.assert_array_equal(changed[2, :4], values[2, :4])
    assert np.all(changed[2, 4:] != values[2, 4:])


def test_a_value_model_from_logits_is_the_reward_model(params):
    values = np.asarray(
        value_model(SPEC, value_from_reward(params, bounded=False), jnp.asarray(IDS), jnp.asarray(MASK))
    )
    np.testing.assert_allclose(values[np.arange(4), LAST], logits_of(params), atol=1e-5)


def test_a_value_model_from_a_bounded_reward_is_its_tangent(params):
    started = value_from_reward(params, bounded=True)
    values = np.asarray(value_model(SPEC, started, jnp.asarray(IDS), jnp.asarray(MASK)))[np.arange(4), LAST]
    logits = logits_of(params)
    np.testing.assert_allclose(values, 0.5 + logits / 4, atol=1e-5)
    # sigmoid(x) = 1/2 + x/4 - x^3/48 + ...
    assert np.all(np.abs(values - expit(logits)) <= np.abs(logits) ** 3 / 48 + 1e-5)


def test_the_head_starts_with_deviation_one_over_root_width_plus_one():
    wide = DecoderSpec(vocab_size=2, width=4096, depth=1, heads=1, kv_heads=1)
    head = init_scalar_head(wide, jax.random.key(0))
    # 4096 draws: the estimate of the deviation is within 5 / sqrt(2 * 4096) = 5.5 %
    assert float(jnp.std(head["kernel"])) == pytest.approx(4097**-0.5, rel=0.055)
    assert set(head) == {"kernel"}


def test_rewards_under_bfloat16_are_reduced_in_float32(params):
    narrow = DecoderSpec(vocab_size=11, width=16, depth=2, heads=4, kv_heads=2, mlp_width=24, dtype="bfloat16")
    rewards = reward_model(narrow, params, jnp.asarray(IDS), jnp.asarray(MASK), bounded=True)
    assert rewards.dtype == jnp.float32
    np.testing.assert_allclose(rewards, expit(logits_of(params)), atol=0.03)
