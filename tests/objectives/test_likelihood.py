import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from rlhf_jax.objectives.likelihood import token_entropy, token_logprobs

LOGITS = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32) * 3
TARGETS = np.array([0, 8, 3, 3, 5, 1])


def test_two_tokens_by_hand():
    # softmax(0, log 3) = (1/4, 3/4); at temperature 1/2: (1/10, 9/10)
    logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0]]))
    np.testing.assert_allclose(token_logprobs(logits, jnp.array([0, 1])), np.log([0.25, 0.75]), rtol=1e-5)
    np.testing.assert_allclose(token_logprobs(logits, jnp.array([0, 1]), 0.5), np.log([0.1, 0.9]), rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
def test_against_scipy(temperature):
    everything = log_softmax(LOGITS.astype(np.float64) / temperature, axis=1)
    ours = token_logprobs(jnp.asarray(LOGITS), jnp.asarray(TARGETS), temperature)
    np.testing.assert_allclose(ours, everything[np.arange(6), TARGETS], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        token_entropy(jnp.asarray(LOGITS), temperature), entropy(np.exp(everything), axis=1), rtol=1e-5
    )


def test_the_gradient_is_one_hot_minus_softmax():
    gradient = jax.grad(lambda x: jnp.sum(token_logprobs(x, jnp.asarray(TARGETS))))(jnp.asarray(LOGITS))
    expected = np.eye(9)[TARGETS] - np.exp(log_softmax(LOGITS.astype(np.float64), axis=1))
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_large_logits_stay_finite():
    logits = jnp.array([[3e4, 0.0, -3e4]])
    assert token_logprobs(logits, jnp.array([2])).tolist() == [-6e4]
    assert token_entropy(logits).tolist() == [0.0]


def test_bfloat16_logits_are_reduced_in_float32():
    # 128 equal logits: log(1/128); eight bits of mantissa would not tell 128 summands from 129.
    logits = jnp.full((1, 129), 5.0, jnp.bfloat16)
    ours = token_logprobs(logits, jnp.array([0]))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, [-np.log(129)], rtol=1e-6)
    assert token_entropy(logits).dtype == jnp.float32
