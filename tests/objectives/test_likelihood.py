from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from scipy.special import log_softmax
from scipy.stats import entropy

from rlhf_jax.objectives import likelihood
from rlhf_jax.objectives.likelihood import chunked_logprobs, read_chunks, token_hits, token_law, token_logprobs
from rlhf_jax.types import DATA, FSDP, SEQUENCE, TENSOR
from tests.programs import largest

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
        token_law(jnp.asarray(LOGITS), jnp.asarray(TARGETS), temperature)[1],
        entropy(np.exp(everything), axis=1),
        rtol=1e-5,
    )


def test_the_gradient_is_one_hot_minus_softmax():
    gradient = jax.grad(lambda x: jnp.sum(token_logprobs(x, jnp.asarray(TARGETS))))(jnp.asarray(LOGITS))
    expected = np.eye(9)[TARGETS] - np.exp(log_softmax(LOGITS.astype(np.float64), axis=1))
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_the_gradient_of_the_entropy():
    """-p_i (log p_i + H), by NumPy."""
    gradient = jax.grad(lambda x: jnp.sum(token_law(x, jnp.asarray(TARGETS))[1]))(jnp.asarray(LOGITS))
    logp = log_softmax(LOGITS.astype(np.float64), axis=1)
    whole = entropy(np.exp(logp), axis=1)[:, None]
    np.testing.assert_allclose(gradient, -np.exp(logp) * (logp + whole), atol=1e-6)


def test_large_logits_stay_finite():
    logits = jnp.array([[3e4, 0.0, -3e4]])
    assert token_logprobs(logits, jnp.array([2])).tolist() == [-6e4]
    assert token_law(logits, jnp.array([2]))[1].tolist() == [0.0]


def test_bfloat16_logits_are_reduced_in_float32():
    # 128 equal logits: log(1/128); eight bits of mantissa would not tell 128 summands from 129.
    logits = jnp.full((1, 129), 5.0, jnp.bfloat16)
    ours = token_logprobs(logits, jnp.array([0]))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, [-np.log(129)], rtol=1e-6)
    assert token_law(logits, jnp.array([0]))[1].dtype == jnp.float32


# Rows of 11 tokens, hidden states of 2 numbers, 29 words.
ROWS, LENGTH, WIDTH, WORDS = 3, 11, 2, 29
HIDDEN = np.random.default_rng(1).normal(size=(ROWS, LENGTH, WIDTH))
KERNEL = np.random.default_rng(2).normal(size=(WIDTH, WORDS))
IDS = np.random.default_rng(3).integers(0, WORDS, (ROWS, LENGTH))


def weighted_sums(chunk, hidden, kernel):
    """A number that depends on every log-probability and entropy, and these."""

    def read(logits, ids):
        return *token_law(logits, ids, 0.7), token_hits(logits, ids)

    found = read_chunks(read, hidden, jnp.asarray(IDS), lambda h: h @ kernel, chunk=chunk)
    weights = jnp.linspace(-1.0, 2.0, ROWS * LENGTH).reshape(ROWS, LENGTH)
    return jnp.sum(weights * found[0]) + jnp.sum(weights**2 * found[1]), found


def plain_sums(hidden, kernel):
    logp = jax.nn.log_softmax(hidden @ kernel / 0.7)
    chosen = jnp.take_along_axis(logp, jnp.asarray(IDS)[..., None], axis=-1)[..., 0]
    entropies = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    weights = jnp.linspace(-1.0, 2.0, ROWS * LENGTH).reshape(ROWS, LENGTH)
    return jnp.sum(weights * chosen) + jnp.sum(weights**2 * entropies), (chosen, entropies)


def graded(function):
    """(values, gradients) of the numbers that a function makes of hidden states and the kernel, in float64."""
    with jax.enable_x64(True):
        compiled = jax.jit(jax.value_and_grad(function, (0, 1), has_aux=True))
        (_, found), gradients = compiled(jnp.asarray(HIDDEN), jnp.asarray(KERNEL))
        return jax.device_get((found, gradients))


@pytest.fixture(scope="module")
def plain():
    return graded(plain_sums)


@pytest.mark.parametrize("chunk", [1, 4, 10, None])
def test_chunks_say_what_the_whole_says_and_so_do_their_gradients(chunk, plain):
    """11 tokens are no multiple of 4 or 10: what fills the last chunk up must not be seen."""
    found, gradients = graded(partial(weighted_sums, chunk))
    for ours, theirs in zip(found[:2] + gradients, plain[0] + plain[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found[2], np.argmax(HIDDEN @ KERNEL, axis=-1) == IDS)


def test_bfloat16_logits_are_reduced_in_float32_in_chunks_too():
    """128 words that all have the logit 5, as above; the gradient of the kernel, summed over chunks, is float32."""
    hidden, kernel = jnp.full((2, 6, 1), 5.0, jnp.bfloat16), jnp.ones((1, 129))

    def total(kernel):
        ours = chunked_logprobs(hidden, jnp.zeros((2, 6), int), lambda h: h @ kernel.astype(jnp.bfloat16), chunk=4)
        return jnp.sum(ours), ours

    (_, ours), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(kernel)
    assert (ours.dtype, gradient.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(ours, np.full((2, 6), -np.log(129)), rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 0], 12 * 5 * (1 - 1 / 129), rtol=1e-2)


@pytest.mark.parametrize("chunk", [1, 4, 400])
def test_no_array_has_the_logits_of_all_tokens(chunk):
    """Forward and backward, in float32 and in the compute dtype; one chunk shows what would be seen."""

    def total(hidden, kernel):
        logits_of = lambda h: h.astype(jnp.bfloat16) @ kernel.astype(jnp.bfloat16)  # noqa: E731
        return jnp.sum(chunked_logprobs(hidden, jnp.asarray(IDS), logits_of, chunk=chunk))

    args = jnp.asarray(HIDDEN, jnp.float32), jnp.asarray(KERNEL, jnp.float32)
    size = {1: 1, 4: 4, 400: LENGTH}[chunk]
    for function in (total, jax.grad(total, (0, 1))):
        for dtype in (jnp.float32, jnp.bfloat16):
            assert largest(dtype, WORDS, function, *args) == ROWS * size * WORDS


def test_as_many_tokens_at_once_as_are_allowed(monkeypatch):
    def rows_of_logits():
        ours = lambda hidden: chunked_logprobs(hidden, jnp.asarray(IDS), lambda h: h @ KERNEL)  # noqa: E731
        return largest(jnp.float32, WORDS, ours, jnp.asarray(HIDDEN, jnp.float32)) // (ROWS * WORDS)

    assert rows_of_logits() == LENGTH  # in one piece, without a loop
    monkeypatch.setattr(likelihood, "LEAST_TOKENS", 1)
    monkeypatch.setitem(likelihood.AT_ONCE, "cpu", 1)
    monkeypatch.setitem(likelihood.IN_ONE_PIECE, "cpu", LENGTH * ROWS * WORDS)
    assert rows_of_logits() == LENGTH
    monkeypatch.setitem(likelihood.IN_ONE_PIECE, "cpu", LENGTH * ROWS * WORDS - 1)
    assert rows_of_logits() == 1
    monkeypatch.setattr(likelihood, "IN_ONE_PIECE", {"cpu": 0, "other": 0})
    monkeypatch.setitem(likelihood.AT_ONCE, "cpu", 7 * ROWS * WORDS)
    assert rows_of_logits() == 6  # 11 tokens in two chunks
    monkeypatch.setitem(likelihood.AT_ONCE, "cpu", 1)
    assert rows_of_logits() == 1
    monkeypatch.setattr(likelihood, "LEAST_TOKENS", 3 * ROWS - 1)
    assert rows_of_logits() == 3  # in chunks of 3, 3, 3 and 2
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(1, 2, 2, 1), (DATA, FSDP, SEQUENCE, TENSOR))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # of which each device has 2 of the 3 rows
        monkeypatch.setattr(likelihood, "LEAST_TOKENS", 2)
        assert rows_of_logits() == 2  # one token of a row on each of two devices
        monkeypatch.setattr(likelihood, "platform", lambda: "tpu")
        monkeypatch.setitem(likelihood.AT_ONCE, "other", 2 * 2 * WORDS)
        assert rows_of_logits() == 4
