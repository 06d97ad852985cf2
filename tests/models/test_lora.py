"""Adapters against their formula by hand, and against what they must leave alone."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import (
    DecoderSpec,
    LoRASpec,
    add_adapters,
    apply_decoder,
    extend_cache,
    fill_cache,
    has_adapters,
    init_decoder,
    merge,
    overlay,
    positions_of,
    trained,
    without_adapters,
)
from rlhf_jax.models.lora import Dense

ALL = ("q", "k", "v", "o", "gate", "up", "down")
SPEC = DecoderSpec(vocab_size=11, width=8, depth=2, heads=2, kv_heads=1, mlp_width=12)
LORA = LoRASpec(rank=3, alpha=6.0, targets=ALL)
IDS = jnp.asarray([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]], jnp.int32)
MASK = jnp.asarray([[True] * 5, [True] * 3 + [False] * 2])


@pytest.fixture(scope="module")
def base() -> Any:
    return jax.jit(partial(init_decoder, SPEC))(jax.random.key(0))


def moved(params: Any, seed: int = 3) -> Any:
    """The parameters with random B, as after training."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.Array) -> jax.Array:
        return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) if "lora_b" in str(path[-1]) else leaf

    return jax.tree_util.tree_map_with_path(draw, params)


@partial(jax.jit, static_argnums=0)
def hidden(spec: DecoderSpec, params: Any) -> jax.Array:
    return apply_decoder(spec, params, IDS, positions_of(MASK), MASK)


def by_path(tree: Any) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def test_a_layer_by_hand() -> None:
    """W + (alpha / r) A B with alpha = 6, r = 1: (1 2) W = (9 12 15), (1 2) A = 2, times B = (4 6 -2), times 6."""
    params = {
        "kernel": jnp.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        "lora_a": jnp.asarray([[0.0], [1.0]]),
        "lora_b": jnp.asarray([[2.0, 3.0, -1.0]]),
        "lora_scale": jnp.asarray(6.0),
    }
    layer = Dense(3, use_bias=False, dtype=jnp.dtype("float32"), param_dtype=jnp.dtype("float32"))
    found = layer.apply({"params": params}, jnp.asarray([[1.0, 2.0]]))
    np.testing.assert_array_equal(found, [[9.0 + 24.0, 12.0 + 36.0, 15.0 - 12.0]])
    # A B has rows (0 0 0) and (2 3 -1).
    np.testing.assert_array_equal(merge(params)["kernel"], [[1.0, 2.0, 3.0], [16.0, 23.0, 0.0]])


def test_the_scale_is_alpha_over_rank(base: Any) -> None:
    params = add_adapters(LORA, base, jax.random.key(1))
    scales = {name: leaf for name, leaf in by_path(params).items() if name.endswith("lora_scale")}
    assert len(scales) == 7
    assert all(np.array_equal(scale, [2.0, 2.0]) for scale in scales.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fresh_adapters_leave_the_function_as_it_was_bit_for_bit(base: Any, dtype: Any) -> None:
    spec = dataclasses.replace(SPEC, dtype=dtype)
    params = add_adapters(LORA, base, jax.random.key(1))
    assert np.asarray(hidden(spec, base)).tobytes() == np.asarray(hidden(spec, params)).tobytes()
    other = np.asarray(hidden(spec, moved(params)), np.float32)
    assert np.abs(other - np.asarray(hidden(spec, base), np.float32)).max() > 0.1


def test_a_is_uniform_and_b_zero(base: Any) -> None:
    """+-1 / sqrt(in), as the released code's Kaiming initialisation of slope sqrt(5) comes to."""
    wide = jax.eval_shape(partial(init_decoder, dataclasses.replace(SPEC, width=64, mlp_width=256)), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), wide)
    found = by_path(add_adapters(dataclasses.replace(LORA, rank=16), zeros, jax.random.key(1)))
    for name, leaf in found.items():
        if name.endswith("lora_a"):
            limit = 1 / np.sqrt(256 if "down" in name else 64)
            assert 0.98 * limit < np.abs(leaf).max() < limit
            np.testing.assert_allclose(leaf.std(), limit / np.sqrt(3), rtol=0.05)
        if name.endswith("lora_b"):
            assert not leaf.any()
    a = [np.asarray(leaf).ravel()[:64] for name, leaf in found.items() if name.endswith("lora_a")]
    assert len({one.tobytes() for one in a}) == 7, "every kernel draws from a stream of its own"


def test_targets_alone_are_adapted_in_every_decoder(base: Any) -> None:
    both = {"policy": base, "value": {"decoder": base, "head": {"kernel": jnp.ones(8)}}}
    params = add_adapters(dataclasses.replace(LORA, targets=("q", "up")), both, jax.random.key(1))
    names = {name.rpartition("/")[0] for name in by_path(params) if name.endswith("lora_a")}
    assert names == {
        f"{where}/layers/{name}" for where in ("policy", "value/decoder") for name in ("attention/q", "up")
    }
    assert not np.array_equal(
        params["policy"]["layers"]["up"]["lora_a"], params["value"]["decoder"]["layers"]["up"]["lora_a"]
    )
    gelu = jax.eval_shape(partial(init_decoder, dataclasses.replace(SPEC, activation="gelu")), jax.random.key(0))
    with pytest.raises(KeyError, match="gate"):
        add_adapters(LORA, gelu, jax.random.key(1))


def test_without_adapters_the_very_arrays_of_the_model_are_left(base: Any) -> None:
    params = moved(add_adapters(LORA, base, jax.random.key(1)))
    assert has_adapters(params)
    found = without_adapters(params)
    assert not has_adapters(found)
    assert by_path(found).keys() == by_path(base).keys()
    assert all(by_path(base)[name] is leaf for name, leaf in by_path(found).items())


def test_a_merged_model_computes_what_the_adapted_one_does() -> None:
    with jax.enable_x64(True):
        spec = dataclasses.replace(SPEC, dtype="float64")
        fresh = jax.jit(partial(init_decoder, spec))(jax.random.key(0))
        params = moved(add_adapters(LORA, fresh, jax.random.key(1)))
        merged = merge(params)
        assert by_path(merged).keys() == by_path(fresh).keys()
        np.testing.assert_allclose(hidden(spec, merged), hidden(spec, params), rtol=0, atol=1e-12)
        assert np.abs(hidden(spec, fresh) - hidden(spec, params)).max() > 0.1
        kernel, layer = np.asarray(fresh["layers"]["down"]["kernel"]), params["layers"]["down"]
        for index in range(2):
            by_hand = kernel[index] + 2.0 * np.asarray(layer["lora_a"])[index] @ np.asarray(layer["lora_b"])[index]
            np.testing.assert_allclose(merged["layers"]["down"]["kernel"][index], by_hand, rtol=0, atol=1e-14)


def test_with_the_cache_piece_by_piece_is_the_whole_row_at_once(base: Any) -> None:
    params = moved(add_adapters(LORA, base, jax.random.key(1)))

    @jax.jit
    def pieces(params: Any) -> jax.Array:
        first, own = jnp.arange(3)[None], jnp.arange(3, 5)
        before, cache = fill_cache(SPEC, params, IDS[:1, :3], first, first >= 0, 5)
        seen = (jnp.arange(5) <= own[:, None])[None]
        after, _ = extend_cache(SPEC, params, IDS[:1, 3:5], own[None], seen, cache, 3)
        return jnp.concatenate([before, after], axis=1)

    np.testing.assert_allclose(pieces(params)[0], hidden(SPEC, params)[0], rtol=0, atol=2e-5)


def test_what_is_trained_is_the_adapters_and_whatever_is_no_decoder(base: Any) -> None:
    head = {"kernel": jnp.ones(8), "bias": jnp.ones(())}
    params = {"policy": base, "value": {"decoder": add_adapters(LORA, base, jax.random.key(1)), "head": head}}
    part = trained(params)
    names = by_path(part).keys()
    assert {name for name in names if name.startswith("policy")} == {f"policy/{name}" for name in by_path(base)}
    thin = {name for name in names if name.startswith("value/decoder")}
    assert len(thin) == 14
    assert all(name.endswith(("/lora_a", "/lora_b")) for name in thin)
    assert {"value/head/kernel", "value/head/bias"} < names
    doubled = overlay(params, jax.tree.map(lambda leaf: 2.0 * leaf, part))
    assert by_path(doubled).keys() == by_path(params).keys()
    for name, leaf in by_path(doubled).items():
        factor = 2.0 if name in names else 1.0
        np.testing.assert_array_equal(leaf, factor * by_path(params)[name])
