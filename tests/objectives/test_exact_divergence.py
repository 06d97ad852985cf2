"""The divergence of next-token laws: against sums in NumPy, in chunks and whole, and what memory it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from rlhf_jax.objectives.divergences import (
    ALL_DIVERGENCES,
    ChiPO,
    ChiSquared,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    TotalVariation,
)
from rlhf_jax.objectives.exact_divergence import apart, chunked_divergence, divergence_of_logits, side_by_side
from tests.programs import largest

LOGITS, REF_LOGITS = np.random.default_rng(0).normal(size=(2, 6, 9)) * 2
BY_HAND = {
    ReverseKL(): lambda p, q: np.sum(p * np.log(p / q), axis=1),
    ForwardKL(): lambda p, q: np.sum(q * np.log(q / p), axis=1),
    ChiSquared(): lambda p, q: np.sum((p - q) ** 2 / q, axis=1),
    ChiPO(): lambda p, q: np.sum((p - q) ** 2 / q / 2 + p * np.log(p / q), axis=1),
    TotalVariation(): lambda p, q: np.sum(np.abs(p - q), axis=1) / 2,
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_against_sums_in_numpy(temperature):
    p, q = (softmax(x / temperature, axis=1) for x in (LOGITS, REF_LOGITS))
    for divergence, formula in BY_HAND.items():
        ours = divergence_of_logits(divergence, jnp.asarray(LOGITS), jnp.asarray(REF_LOGITS), temperature)
        np.testing.assert_allclose(ours, formula(p, q), rtol=1e-12, err_msg=repr(divergence))


def test_the_gradient_of_the_reverse_kl_and_none_to_the_reference():
    """d KL / d logits = p (log(p / q) - KL)."""
    p, q = softmax(LOGITS, axis=1), softmax(REF_LOGITS, axis=1)
    total = lambda x, y: jnp.sum(divergence_of_logits(ReverseKL(), x, y))  # noqa: E731
    mine, other = jax.grad(total, (0, 1))(jnp.asarray(LOGITS), jnp.asarray(REF_LOGITS))
    kl = np.sum(p * np.log(p / q), axis=1, keepdims=True)
    np.testing.assert_allclose(mine, p * (np.log(p / q) - kl), rtol=1e-10)
    assert not np.any(other)


@pytest.mark.parametrize("divergence", ALL_DIVERGENCES, ids=repr)
def test_at_the_reference_itself_and_far_from_it(divergence):
    """Nothing to pay and no gradient at the start of training; finite in float32 where all mass has moved."""
    logits = jnp.asarray(REF_LOGITS, jnp.float32)
    total = lambda x: jnp.sum(divergence_of_logits(divergence, x, logits))  # noqa: E731
    value, gradient = jax.value_and_grad(total)(logits)
    assert float(value) == pytest.approx(0.0, abs=1e-5)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)
    far = jnp.zeros_like(logits).at[:, 0].set(60.0)
    value, gradient = jax.value_and_grad(total)(far)
    assert np.isfinite(float(value))
    assert np.all(np.isfinite(gradient))
    assert float(value) > 0.1


def test_logits_in_bfloat16_are_reduced_in_float32():
    ours = divergence_of_logits(ForwardKL(), jnp.asarray(LOGITS, jnp.bfloat16), jnp.asarray(REF_LOGITS, jnp.bfloat16))
    assert ours.dtype == jnp.float32
    p, q = (log_softmax(np.asarray(jnp.asarray(x, jnp.bfloat16), float), axis=1) for x in (LOGITS, REF_LOGITS))
    np.testing.assert_allclose(ours, np.sum(np.exp(q) * (q - p), axis=1), rtol=1e-5)


# Rows of 11 tokens, hidden states of 2 and 3 numbers, 29 words.
ROWS, LENGTH, WORDS = 3, 11, 29
HIDDEN, REF_HIDDEN = (np.random.default_rng(k).normal(size=(ROWS, LENGTH, 2 + k)) for k in (0, 1))
KERNEL, REF_KERNEL = (np.random.default_rng(2 + k).normal(size=(2 + k, WORDS)) for k in (0, 1))
WEIGHTS = jnp.linspace(-1.0, 2.0, ROWS * LENGTH).reshape(ROWS, LENGTH)


def weighted(chunk):
    def total(hidden, kernel):
        found = chunked_divergence(
            JensenShannon(),
            hidden,
            jnp.asarray(REF_HIDDEN),
            lambda h: h @ kernel,
            lambda h: h @ jnp.asarray(REF_KERNEL),
            temperature=0.7,
            chunk=chunk,
        )
        return jnp.sum(WEIGHTS * found), found

    return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(jnp.asarray(HIDDEN), jnp.asarray(KERNEL))


def test_chunks_say_what_the_whole_says_and_so_do_their_gradients():
    """11 tokens are no multiple of 4: what fills the last chunk up must not be seen."""

    def whole(hidden, kernel):
        found = jax.vmap(lambda x, y: divergence_of_logits(JensenShannon(), x, y, 0.7))(
            hidden @ kernel, jnp.asarray(REF_HIDDEN) @ jnp.asarray(REF_KERNEL)
        )
        return jnp.sum(WEIGHTS * found), found

    expected = jax.value_and_grad(whole, (0, 1), has_aux=True)(jnp.asarray(HIDDEN), jnp.asarray(KERNEL))
    for chunk in (4, 100):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), weighted(chunk), expected)


@pytest.mark.parametrize("chunk", [1, 4])
def test_no_array_has_the_logits_of_all_tokens(chunk):
    """Forward and backward, of the policy, the reference and the two together."""

    def total(hidden, kernel):
        logits_of = lambda h: h @ kernel  # noqa: E731
        ref_logits_of = lambda h: h @ jnp.asarray(REF_KERNEL, jnp.float32)  # noqa: E731
        ref_hidden = jnp.asarray(REF_HIDDEN, jnp.float32)
        return jnp.sum(chunked_divergence(ChiPO(), hidden, ref_hidden, logits_of, ref_logits_of, chunk=chunk))

    args = jnp.asarray(HIDDEN, jnp.float32), jnp.asarray(KERNEL, jnp.float32)
    for function in (total, jax.grad(total, (0, 1))):
        assert largest(jnp.float32, WORDS, function, *args) == ROWS * chunk * WORDS
        assert largest(jnp.float32, 2 * WORDS, function, *args) == ROWS * chunk * 2 * WORDS


def test_hidden_states_keep_their_own_dtype_side_by_side():
    seen = []

    def logits_of(hidden):
        seen.append(hidden.dtype)
        return jnp.zeros((*hidden.shape[:2], 4), jnp.float32)

    hidden, ref_hidden = jnp.zeros((1, 2, 3), jnp.bfloat16), jnp.zeros((1, 2, 5), jnp.float32)
    both, joint = side_by_side(hidden, ref_hidden, logits_of, lambda h: logits_of(h) + 1.0)
    mine, other = apart(joint(both)[0])
    assert seen == [jnp.bfloat16, jnp.float32]
    assert (mine.shape, float(mine.max()), float(other.min())) == ((2, 4), 0.0, 1.0)


def test_the_gradient_where_some_tokens_are_as_likely_as_in_the_reference():
    """p = (1, 2, 1) / 4, q = (1, 1, 2) / 4: the first ratio is exactly 1. d FKL / d logits = p - q."""
    logits, ref_logits = jnp.log(jnp.array([[[1.0, 2.0, 1.0]], [[1.0, 1.0, 2.0]]]))
    logp, ref_logp = jax.nn.log_softmax(logits), jax.nn.log_softmax(ref_logits)
    assert float(logp[0, 0]) == float(ref_logp[0, 0])
    gradient = jax.grad(lambda x: jnp.sum(divergence_of_logits(ForwardKL(), x, ref_logits)))(logits)
    np.testing.assert_allclose(gradient, [[0.0, 0.25, -0.25]], atol=1e-15)
