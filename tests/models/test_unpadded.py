"""Rows read by their real tokens alone are rows read as they are: hidden states, log-probabilities and gradients."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import (
    LoRASpec,
    add_adapters,
    apply_decoder,
    apply_unpadded,
    init_decoder,
    last_hidden,
    output_logits,
    positions_of,
)
from rlhf_jax.objectives.likelihood import chunked_logprobs
from rlhf_jax.unpadding import ALL, Room, line_of
from tests.models.test_decoder import STYLES

ROWS, PROMPT, RESPONSE = 5, 5, 6
# Prompts padded on the left, responses on the right: (tokens of the prompt, of the response); one row is only padding.
LENGTHS = ((5, 6), (1, 1), (3, 4), (0, 0), (5, 2))
SLOTS = np.arange(PROMPT + RESPONSE) - PROMPT
MASK = np.stack([(-prompt <= SLOTS) & (response > SLOTS) for prompt, response in LENGTHS])
TOKENS, RESPONSES = sum(map(sum, LENGTHS)), sum(response for _, response in LENGTHS)
READ = slice(PROMPT - 1, None)
IDS = np.random.default_rng(0).integers(0, 13, MASK.shape).astype(np.int32)


def lively(spec):
    shapes = jax.eval_shape(partial(init_decoder, spec), jax.random.key(0))
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(0.4 * random.normal(size=leaf.shape), leaf.dtype), shapes)


def loss(spec, room, params):
    """Something of every response's tokens and of every response's log-probability, and both themselves."""
    ids, mask = jnp.asarray(IDS), jnp.asarray(MASK)
    hidden = apply_unpadded(spec, params, ids, mask, RESPONSE, room)
    line = line_of(mask[:, PROMPT:], room.responses)
    before, targets = hidden[:, :-1], ids[:, PROMPT:]
    logprobs = chunked_logprobs(before, targets, partial(output_logits, spec, params), chunk=2, line=line)
    logprobs = jnp.where(MASK[:, PROMPT:], logprobs, 0.0)
    return jnp.sum(jnp.where(MASK[:, READ, None], jnp.sin(hidden), 0.0)) + jnp.sum(logprobs), (hidden, logprobs)


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("modern", Room(TOKENS + 2, RESPONSES + 1)),
        ("modern", Room(TOKENS + 2, None)),
        ("classic", Room(None, RESPONSES + 1)),
        ("classic", Room(TOKENS, RESPONSES)),
        ("windows", Room(TOKENS + 2, RESPONSES + 1)),
        ("parallel", Room(TOKENS + 2, RESPONSES + 1)),
    ],
)
def test_the_same_is_found_without_padding(name, room):
    spec = dataclasses.replace(STYLES[name], remat="full" if name == "parallel" else "none")
    params = lively(spec)
    if name == "modern":
        params = add_adapters(LoRASpec(rank=2, alpha=4.0, targets=("q", "v")), params, jax.random.key(2))
    ((_, (hidden, logprobs)), gradients), ((_, (own, own_logprobs)), own_gradients) = (
        jax.jit(jax.value_and_grad(partial(loss, spec, one), has_aux=True))(params) for one in (ALL, room)
    )
    mask = MASK[:, READ]
    np.testing.assert_allclose(np.asarray(own)[mask], np.asarray(hidden)[mask], atol=1e-5)
    if room.tokens:
        assert np.all(np.asarray(own)[~mask] == 0)
    np.testing.assert_allclose(own_logprobs, logprobs, atol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), own_gradients, gradients)
    assert float(jnp.abs(gradients["embedding"]).max()) > 1e-2


@pytest.mark.parametrize("room", [ALL, Room(TOKENS + 2, RESPONSES + 1)])
@pytest.mark.parametrize("name", ["modern", "windows"])
def test_the_last_token_that_is_read_of_each_row(name, room):
    spec, random = STYLES[name], np.random.default_rng(3)
    params, ends = lively(spec), MASK & (random.random(MASK.shape) < 0.6)
    found = jax.jit(partial(last_hidden, spec, room=room))(params, IDS, MASK, ends)
    whole = jax.jit(partial(apply_decoder, spec))(params, IDS, positions_of(jnp.asarray(MASK)), MASK)
    rows = ends.any(1)
    assert rows.sum() >= 3
    last = [np.flatnonzero(row)[-1] for row in ends[rows]]
    np.testing.assert_allclose(np.asarray(found)[rows], np.asarray(whole)[rows, last], atol=1e-5)


def test_a_line_of_tokens_and_back():
    """By hand: of two rows of three slots the tokens are b, c and f."""
    mask = jnp.array([[False, True, True], [False, False, True]])
    line = line_of(mask, 4)
    letters = jnp.array([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(line.collect(letters), [2, 3, 6, 0])
    np.testing.assert_array_equal(line.spread(line.collect(letters)), [[0, 2, 3], [0, 0, 6]])
    weights = jnp.array([1.0, 10.0, 100.0, 1000.0])
    np.testing.assert_array_equal(
        jax.grad(lambda x: jnp.sum(weights * line.collect(x)))(letters.astype(float)), [[0, 1, 10], [0, 0, 100]]
    )
    rows = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(rows * line.spread(x)))(weights), [1, 2, 5, 0])
    assert line_of(mask, None) is None


def test_products_with_parameters_see_real_tokens_alone():
    """What the compiler counts: a layer's products are most of it, and shrink as the tokens do."""
    spec = dataclasses.replace(STYLES["modern"], width=64, heads=4, kv_heads=4, mlp_width=256)
    params = jax.eval_shape(partial(init_decoder, spec), jax.random.key(0))
    ids, mask = (jax.ShapeDtypeStruct((8, 16), dtype) for dtype in (jnp.int32, bool))

    def flops(room):
        compiled = (
            jax.jit(partial(apply_unpadded, spec, response_length=8, room=room)).lower(params, ids, mask).compile()
        )
        return compiled.cost_analysis()["flops"]

    assert flops(Room(32, 16)) < 0.5 * flops(ALL)
    assert flops(Room(32, None)) < 0.5 * flops(ALL)
