"""Quantised kernels against NumPy quantisers and the normal distribution, and what a product with them keeps."""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.ad_checkpoint import print_saved_residuals
from scipy.stats import norm

from rlhf_jax.errors import UserError
from rlhf_jax.learners.step import gradient_step
from rlhf_jax.models import (
    DecoderSpec,
    LoRASpec,
    add_adapters,
    apply_decoder,
    check_quantiser,
    init_decoder,
    merge,
    overlay,
    quantised,
    trained,
    without_adapters,
)
from rlhf_jax.models.quantised import dequantised, quantised_product
from tests.learners import tiny

pytest.importorskip("qwix")
LORA = LoRASpec(rank=3, alpha=6.0, targets=("q", "o", "up", "down"))


def normal_float() -> np.ndarray:
    """Quantiles of the normal distribution, eight below 0 and seven above, 0 itself, the largest 1 (Dettmers 2023)."""
    edge = 0.5 * ((1 - 1 / 30) + (1 - 1 / 32))
    above = norm.ppf(np.linspace(edge, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(edge, 0.5, 8)[:-1])
    values = np.sort(np.concatenate([above, below, [0.0]]))
    return values / values.max()


def layers(shape: tuple[int, ...]) -> Any:
    random = np.random.default_rng(0)
    kernel = random.normal(size=shape) * np.geomspace(0.01, 10, shape[-1])
    return {"layers": {"up": {"kernel": jnp.asarray(kernel, jnp.float32)}}}


def kept(base: str, params: Any) -> tuple[Any, Any, Any]:
    """(kernel, codes, scales)."""
    layer = quantised(base, params)["layers"]["up"]
    assert layer.keys() == {"kernel_codes", "kernel_scale"}
    return params["layers"]["up"]["kernel"], *layer.values()


def test_int8_is_rounding_to_255_steps_of_each_output() -> None:
    kernel, codes, scale = kept("int8", layers((2, 10, 5)))
    # Half a step beyond the largest code is still nearest to it.
    step = np.abs(kernel).max(axis=1, keepdims=True) / np.float32(127.5)
    np.testing.assert_allclose(scale, step, rtol=1e-6)
    assert codes.dtype == np.int8
    found, nearest = np.asarray(codes, int), np.clip(np.rint(kernel / step), -128, 127)
    tie = np.abs(kernel) == np.abs(kernel).max(axis=1, keepdims=True)  # -127.5 is as near to -127 as to -128
    np.testing.assert_array_equal(found[~tie], nearest[~tie])
    assert (np.abs(found - nearest)[tie] <= 1).all()
    again = dequantised(codes, scale)
    np.testing.assert_allclose(again, codes * step, rtol=1e-6)
    assert (np.abs(again - kernel) <= 0.5001 * step).all()


@pytest.mark.parametrize(("rows", "block"), [(128, 64), (24, 8)])
def test_nf4_is_the_nearest_of_sixteen_quantiles_in_every_block(rows: int, block: int) -> None:
    kernel, codes, scale = kept("nf4", layers((2, rows, 5)))
    assert codes.dtype == np.uint8
    assert codes.shape == (2, rows // 2, 5)
    blocks = kernel.reshape(2, rows // block, block, 5)
    largest = np.abs(blocks).max(axis=2)
    np.testing.assert_allclose(scale, largest, rtol=1e-6)
    relative = (blocks / largest[:, :, None]).reshape(kernel.shape)
    nearest = np.abs(relative[..., None] - normal_float()).argmin(axis=-1)
    unpacked = np.stack([codes & 15, codes >> 4], axis=2).reshape(kernel.shape)
    np.testing.assert_array_equal(unpacked, nearest)
    expected = normal_float()[nearest] * np.repeat(largest, block, axis=1)
    np.testing.assert_allclose(dequantised(codes, scale), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def base() -> Any:
    """A reward model with adapters that say something."""
    params = add_adapters(LORA, tiny.scored_params("float32", 1), jax.random.key(5))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full_like(leaf, 0.05) if "lora_b" in jax.tree_util.keystr(path) else leaf, params
    )


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "nf4"])
def test_the_model_is_that_of_its_kernels_made_again(kind: str, base: Any) -> None:
    """Merged, it is float32 and whole, and computes the same; half, a quarter and an eighth of the bytes are left."""
    own = quantised(kind, base)
    merged = merge(own)
    assert jax.tree.structure(merged) == jax.tree.structure(without_adapters(base))
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {np.dtype("float32")}
    ids = jnp.asarray(tiny.token_batch(0).ids)
    read = jax.jit(lambda params: apply_decoder(tiny.decoder_spec(), params["decoder"], ids, ids * 0, ids > 0))
    np.testing.assert_allclose(read(own), read(merged), atol=2e-5)
    assert np.abs(read(own) - read(base)).max() > 1e-4
    inner = without_adapters(own)["decoder"]["layers"]
    before = sum(leaf.nbytes for leaf in jax.tree.leaves(without_adapters(base)["decoder"]["layers"]))
    share = sum(leaf.nbytes for leaf in jax.tree.leaves(inner)) / before
    # Columns of 16 inputs have a scale each, of four bytes.
    assert share == pytest.approx({"bfloat16": 0.5, "int8": 0.25 + 1 / 16, "nf4": 0.125 + 1 / 16}[kind], abs=0.04)


def test_gradients_are_of_adapters_and_heads_alone_and_codes_stay(base: Any) -> None:
    loss_sums, _, batches = tiny.reward_parts()
    own, rate = quantised("nf4", base), optax.sgd(0.1)
    step = jax.jit(partial(gradient_step, loss_sums, rate, axis_name=None))
    nothing = rate.init(trained(own))
    moved, _, _ = step(own, nothing, batches[0])
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(own), jax.tree.leaves(moved), strict=True):
        name = jax.tree_util.keystr(path)
        assert np.array_equal(old, new) != ("lora_a" in name or "lora_b" in name or "head" in name), name
    # Beneath are other kernels, and nothing else: adapters over the kernels made again move as far.
    whole = {**merge(without_adapters(own)), "head": own["head"]}
    adapted = add_adapters(LORA, whole, jax.random.key(5))
    adapted = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full_like(leaf, 0.05) if "lora_b" in jax.tree_util.keystr(path) else leaf, adapted
    )
    other, _, _ = step(adapted, nothing, batches[0])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=2e-5), trained(moved), trained(other))


def test_nothing_of_a_kernels_size_is_kept_for_the_backward_pass() -> None:
    """Of float32 kernels the stack itself is kept, of others the codes."""
    spec = DecoderSpec(vocab_size=11, width=128, depth=3, heads=2, kv_heads=2, mlp_width=256)
    params = jax.eval_shape(lambda key: add_adapters(LORA, init_decoder(spec, key), key), jax.random.key(0))
    ids = jnp.zeros((1, 2), jnp.int32)

    def largest(params: Any) -> int:
        def backward(params: Any) -> Any:
            def read(part: Any) -> Any:
                return apply_decoder(spec, overlay(params, part), ids, ids, ids + 1)

            return jax.vjp(read, trained(params))[1]

        found = jax.tree.leaves(jax.eval_shape(backward, params))
        return max(leaf.size for leaf in found if jnp.issubdtype(leaf.dtype, jnp.floating))

    for kind in ("float32", "int8", "nf4"):
        kept = largest(jax.eval_shape(partial(quantised, kind), params))
        assert (kept >= 3 * 128 * 128) == (kind == "float32"), kind


def test_a_whole_float_kernel_never_stands_in_the_compiled_backward_pass() -> None:
    """Eight layers of 2.25 MiB each: one at a time is at work, forwards and backwards."""
    layers, width = 8, 768

    def loss(x: Any, codes: Any, scale: Any) -> Any:
        step = lambda x, one: (jnp.tanh(quantised_product(x, *one)), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(step, x, (codes, scale))[0])

    shapes = [((2, width), jnp.float32), ((layers, width, width), jnp.int8), ((layers, 1, width), jnp.float32)]
    compiled = jax.jit(jax.grad(loss)).lower(*(jax.ShapeDtypeStruct(*one) for one in shapes)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * width * width * 4


def test_a_loop_over_tokens_carries_codes_and_no_kernels() -> None:
    """Sampling unrolls the layers in such a loop, from which the compiler would move what does not change in it."""

    def sample(x: Any, codes: Any, scale: Any) -> Any:
        def token(_: Any, x: Any) -> Any:
            for layer in range(3):
                x = jnp.tanh(quantised_product(x, codes[layer], scale[layer]))
            return x

        return jax.lax.fori_loop(0, 4, token, x)

    shapes = [((2, 48), jnp.float32), ((3, 48, 48), jnp.int8), ((3, 1, 48), jnp.float32)]
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    text = jax.jit(sample).lower(*(jax.ShapeDtypeStruct(*one) for one in shapes)).compile().as_text()
    jax.config.update("jax_disable_most_optimizations", before)
    (carried,) = (line.partition(" while(")[0] for line in text.splitlines() if " while(" in line)
    assert "s8[3,48,48]" in carried
    assert "f32[48,48]" not in carried


def test_without_the_library_there_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qwix", None)
    for base in ("int8", "nf4"):
        with pytest.raises(UserError, match=r"^config\.lora\.base: int8 and nf4 .* pip install 'rlhf_jax\[quant\]'"):
            check_quantiser(base)
    check_quantiser("bfloat16")


def test_what_a_product_gives_can_be_kept_where_layers_are_computed_again(capsys: pytest.CaptureFixture[str]) -> None:
    _, codes, scale = kept("int8", layers((10, 6)))
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    layer = jax.checkpoint(lambda x: jnp.sin(quantised_product(x, codes, scale)), policy=policy)
    print_saved_residuals(lambda x: layer(x).sum(), jnp.ones((5, 10)))
    assert "f32[5,6] " in capsys.readouterr().out
