"""Computed in bfloat16: parameters, moments, gradients and every sum stay in float32."""

import dataclasses
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.learners import sft
from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.learners.step import init_state, train_step
from rlhf_jax.models import init_decoder
from rlhf_jax.models.precision import product
from tests.learners import tiny

HALF = dataclasses.replace(tiny.decoder_spec("float32"), dtype="bfloat16")
BIASED = dataclasses.replace(
    HALF, norm="layer", positions="learned", activation="gelu", qkv_bias=True, out_bias=True, mlp_bias=True, tied=False
)
SUMS = {"reduce_sum", "reduce_max", "cumsum", "scatter-add", "exp", "log", "rsqrt", "psum"}


def operations(jaxpr) -> Iterator:
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from operations(inner)


@pytest.mark.parametrize("spec", [HALF, BIASED], ids=["rms", "layer"])
@pytest.mark.parametrize(("attention", "wide_there"), [("plain", 1), ("blockwise", 8)])
def test_sums_are_of_float32_and_products_of_bfloat16(spec, attention, wide_there, monkeypatch):
    spec = dataclasses.replace(spec, attention=attention)
    monkeypatch.setattr("rlhf_jax.models.precision.platform", lambda: "tpu")
    params = jax.eval_shape(partial(init_decoder, spec), jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, tiny.sft_parts()[2][0])
    program = jax.make_jaxpr(jax.grad(lambda params: sft.loss_sums(spec, params, batch).numerator))(params)
    found = list(operations(program.jaxpr))
    summed = {
        (one.primitive.name, str(v.aval.dtype)) for one in found if one.primitive.name in SUMS for v in one.invars
    }
    assert {name for name, _ in summed} >= {"reduce_sum", "reduce_max", "exp", "scatter-add"}
    assert {dtype for _, dtype in summed} <= {"float32", "int32"}
    products = [one for one in found if one.primitive.name == "dot_general"]
    assert {str(v.aval.dtype) for one in products for v in one.invars} == {"bfloat16"}
    # Gradients of the parameters come out in float32, of each kernel of a layer and the output, and attention's scores,
    # of blocks all that is added up over several of them: two products forward, six backward.
    wide = sum(str(one.outvars[0].aval.dtype) == "float32" for one in products)
    assert (
        wide
        == sum(path[-1].key in ("kernel", "output") for path, _ in jax.tree_util.tree_leaves_with_path(params))
        + (spec.tied)
        + wide_there
    )


def test_the_gradient_of_a_kernel_is_summed_in_float32():
    """257 ones: in bfloat16 the next number after 256 is 258."""
    ones, kernel = jnp.ones((257, 1), jnp.bfloat16), jnp.ones((1, 1), jnp.float32)
    assert jax.grad(lambda kernel: jnp.sum(product(ones, kernel).astype(jnp.float32)))(kernel) == 257
    assert float(jnp.bfloat16(257)) != 257


def test_a_product_and_its_gradients_are_those_of_the_rounded_kernel():
    rng = np.random.default_rng(0)
    x, kernel, out = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((2, 3, 5), (5, 4), (2, 3, 4)))
    rounded = kernel.astype(jnp.bfloat16).astype(jnp.float32)

    def weighted(multiply, x, kernel):
        return jnp.sum(multiply(x, kernel).astype(jnp.float32) * out)

    for_x, for_kernel = jax.grad(partial(weighted, product), (0, 1))(x.astype(jnp.bfloat16), kernel)
    exact = jax.grad(partial(weighted, jnp.matmul), (0, 1))(x.astype(jnp.bfloat16).astype(jnp.float32), rounded)
    assert (for_x.dtype, for_kernel.dtype) == (jnp.bfloat16, jnp.float32)
    for one, other in zip((for_x, for_kernel), exact, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float32), other, atol=0.05)


def test_steps_too_small_for_bfloat16_add_up():
    """From 0.02 the next number in bfloat16 is some 1e-4 away: steps of 1e-7 would leave it where it is."""
    params, batch = init_decoder(HALF, jax.random.key(0)), tiny.sft_parts()[2][0]
    optimizer = make_optimizer(OptimizerSpec(learning_rate=1e-7, steps=10, schedule="constant"))
    state = init_state(params, optimizer, jax.random.key(1))
    step = jax.jit(partial(train_step, partial(sft.loss_sums, HALF), optimizer))
    for _ in range(10):
        state, _ = step(state, batch)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves((state.params, state.opt_state))} <= {"float32", "int32"}
    before, after = np.asarray(params["embedding"]), np.asarray(state.params["embedding"])
    assert 5e-7 < np.median(np.abs(after - before)) < 2e-6
    assert np.mean(after.astype(jnp.bfloat16) == before.astype(jnp.bfloat16)) > 0.9
