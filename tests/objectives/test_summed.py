"""Sums of weighted log-probabilities against the whole of the logits in float64, and what is computed for them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from rlhf_jax.objectives.likelihood import chunked_logprobs, token_hits
from rlhf_jax.objectives.summed import summed_logprobs
from tests.programs import largest

# Rows of 11 tokens, hidden states of 2 numbers, 29 words; every third token counts, and each for something else.
ROWS, LENGTH, WIDTH, WORDS = 3, 11, 2, 29
DRAW = np.random.default_rng(1)
HIDDEN, KERNEL = DRAW.normal(size=(ROWS, LENGTH, WIDTH)), DRAW.normal(size=(WIDTH, WORDS))
IDS, WEIGHTS = DRAW.integers(0, WORDS, (ROWS, LENGTH)), DRAW.uniform(0.5, 2.0, (ROWS, LENGTH))
WEIGHTS[np.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) % 3 > 0] = 0.0


def logits_of(head, hidden):
    return hidden @ head["output"]


def ours(chunk, hidden, kernel, weights=WEIGHTS, ids=IDS):
    sums = summed_logprobs(
        logits_of, chunk, {"output": kernel}, hidden, jnp.asarray(ids), jnp.asarray(weights, hidden.dtype)
    )
    return 3.0 * sums.logprobs, sums


@pytest.mark.parametrize("chunk", [1, 4, 10, None])
def test_sums_and_gradients_are_those_of_all_logits(chunk):
    """11 of 33 tokens count, which is no multiple of 4 or 10."""
    with jax.enable_x64(True):
        arrays = jnp.asarray(HIDDEN), jnp.asarray(KERNEL)
        (_, sums), (of_hidden, of_kernel) = jax.jit(jax.value_and_grad(partial(ours, chunk), (0, 1), has_aux=True))(
            *arrays
        )
        alone = jax.jit(partial(ours, chunk))(*arrays)[1]
    logits = HIDDEN @ KERNEL
    logp, hot = log_softmax(logits, axis=-1), np.eye(WORDS)[IDS]
    assert sums.logprobs == pytest.approx(np.sum(WEIGHTS[..., None] * hot * logp), rel=1e-12)
    assert sums.hits == pytest.approx(np.sum(WEIGHTS * (logits.argmax(-1) == IDS)), rel=1e-12)
    np.testing.assert_allclose(alone, sums, rtol=1e-14)
    of_logits = 3.0 * WEIGHTS[..., None] * (hot - np.exp(logp))
    np.testing.assert_allclose(of_hidden, of_logits @ KERNEL.T, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(of_kernel, np.einsum("btd,btv->dv", HIDDEN, of_logits), rtol=1e-11)


def test_tokens_without_weight_have_no_logits():
    """Eleven tokens count: of what stands behind them not even a NaN is noticed; nor is anything, where none counts."""
    hidden = np.where(WEIGHTS[..., None] > 0, HIDDEN, np.nan).astype(np.float32)
    value = jax.jit(jax.value_and_grad(partial(ours, 1), (0, 1), has_aux=True))
    (total, _), gradients = value(jnp.asarray(hidden), jnp.asarray(KERNEL, jnp.float32))
    assert np.isfinite(total)
    assert all(np.isfinite(leaf).all() for leaf in gradients)
    (total, sums), gradients = value(jnp.full(HIDDEN.shape, jnp.nan), jnp.asarray(KERNEL, jnp.float32), 0 * WEIGHTS)
    assert (total, *sums) == (0.0, 0.0, 0.0)
    assert all((leaf == 0).all() for leaf in gradients)


@pytest.mark.parametrize("chunk", [2, 5, 400])
def test_no_array_has_the_logits_of_all_tokens(chunk):
    size = min(chunk, ROWS * LENGTH)
    size = -(-ROWS * LENGTH // -(-ROWS * LENGTH // size))  # parts of one size
    total = lambda hidden, kernel: ours(chunk, hidden, kernel)[0]  # noqa: E731
    args = jnp.asarray(HIDDEN, jnp.float32), jnp.asarray(KERNEL, jnp.float32)
    for function in (total, jax.grad(total, (0, 1))):
        assert largest(jnp.float32, WORDS, function, *args) == size * WORDS


def test_logits_are_computed_once():
    """By the compiler's count, for which a loop is one of its rounds: three products, where there were four."""

    def before(hidden, kernel):
        logprobs = chunked_logprobs(hidden, jnp.zeros((1, 64), int), lambda h: h @ kernel, chunk=16)
        return jnp.sum(logprobs)

    def now(hidden, kernel):
        return ours(16, hidden, kernel, jnp.ones((1, 64)), jnp.zeros((1, 64), int))[0]

    shapes = jax.ShapeDtypeStruct((1, 64, 256), jnp.float32), jax.ShapeDtypeStruct((256, 512), jnp.float32)
    counts = [
        jax.jit(jax.value_and_grad(function, (0, 1))).lower(*shapes).compile().cost_analysis()["flops"]
        for function in (before, now)
    ]
    product = 2 * 16 * 256 * 512
    assert counts[0] == pytest.approx(4 * product, rel=0.1)
    assert counts[1] == pytest.approx(3 * product, rel=0.1)


def test_of_equal_logits_the_first_is_the_likeliest():
    logits = jnp.asarray([[1.0, 3.0, 3.0], [1.0, 3.0, 3.0], [jnp.nan, 3.0, 3.0]])
    assert token_hits(logits, jnp.asarray([1, 2, 1])).tolist() == [1.0, 0.0, 0.0]
