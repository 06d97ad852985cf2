"""A row by itself is normed as it would be among others, and no array with an axis of length 1 is summed for it."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import DecoderSpec, apply_decoder, init_decoder, output_logits
from rlhf_jax.objectives.likelihood import read_chunks, token_law
from tests.models.test_decoder import STYLES, busy_params

LENGTH = 8


def summed(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """The shapes of the products that a traced program sums over their last axis."""
    products = {id(one.outvars[0]) for one in jaxpr.eqns if one.primitive.name == "mul"}
    for equation in jaxpr.eqns:
        if equation.primitive.name == "reduce_sum" and id(equation.invars[0]) in products:
            shape = equation.invars[0].aval.shape
            if len(shape) - 1 in equation.params["axes"]:
                yield shape
        for value in equation.params.values():
            for one in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(one, "jaxpr", one)
                if hasattr(inner, "eqns"):
                    yield from summed(inner)


def loss(spec: DecoderSpec, ids: jax.Array, params: Any) -> jax.Array:
    """Log-probabilities and entropies of all tokens, each weighted."""
    positions = jnp.broadcast_to(jnp.arange(LENGTH), ids.shape)
    hidden = apply_decoder(spec, params, ids, positions, jnp.ones(ids.shape, bool))
    logprobs, entropies = read_chunks(token_law, hidden, ids, partial(output_logits, spec, params))
    return jnp.sum(logprobs * jnp.arange(1.0, LENGTH + 1) + jnp.sin(entropies))


@pytest.mark.parametrize("name", ["modern", "classic", "windows", "parallel"])
def test_no_axis_of_length_1_is_in_what_a_row_by_itself_sums(name: str) -> None:
    """Nor in the losses, which are of one number a token: smaller arrays than those of hidden states."""
    spec = STYLES[name]
    params = jax.eval_shape(partial(init_decoder, spec), jax.random.key(0))
    ids = jnp.zeros((1, LENGTH), jnp.int32)
    shapes = set(summed(jax.make_jaxpr(jax.grad(partial(loss, spec, ids)))(params).jaxpr))
    large = {shape for shape in shapes if np.prod(shape) >= LENGTH * spec.vocab_size}
    assert large
    assert not {shape for shape in large if 1 in shape}


@pytest.mark.parametrize("name", ["modern", "windows"])
def test_a_row_by_itself_is_a_row_among_others(name: str) -> None:
    """Gradients of two rows are the sum of each row's own."""
    spec = STYLES[name]
    params, ids = busy_params(spec), jnp.asarray(np.random.default_rng(0).integers(0, 13, (2, LENGTH)), jnp.int32)
    slope = jax.jit(jax.grad(lambda params, ids: loss(spec, ids, params)))
    together, first, second = (slope(params, rows) for rows in (ids, ids[:1], ids[1:]))
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(together))
    jax.tree.map(
        lambda whole, one, other: np.testing.assert_allclose(one + other, whole, atol=1e-5 * scale, rtol=1e-4),
        together,
        first,
        second,
    )
