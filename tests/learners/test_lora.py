"""Learners on adapted parameters: what moves, what stays, and the gradients by the chain rule."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax.learners.step import gradient_step, init_state
from rlhf_jax.models import LoRASpec, add_adapters, merge, trained
from rlhf_jax.parallel import MeshExecutor
from tests.learners import tiny

LORA = LoRASpec(rank=3, alpha=6.0, targets=("q", "o", "up", "down"))


def by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def is_thin(name: str) -> bool:
    return name.endswith(("/lora_a", "/lora_b"))


def test_adapters_and_heads_move_and_nothing_else() -> None:
    loss_sums, base, batches = tiny.reward_parts()
    params = add_adapters(LORA, base, jax.random.key(5))
    *_, (state, metrics) = tiny.gradient_steps(MeshExecutor(jax.devices()[:1]), loss_sums, params, batches[:2])
    before, after = by_path(params), by_path(state.params)
    assert before.keys() == after.keys()
    for name, leaf in before.items():
        still = np.asarray(leaf).tobytes() == np.asarray(after[name]).tobytes()
        assert still != (is_thin(name) or "head" in name), name
    assert metrics["grad_norm"] > 0


def test_the_optimizer_holds_no_moment_of_a_frozen_parameter() -> None:
    params = add_adapters(LORA, tiny.scored_params("float32", 1), jax.random.key(5))
    adam = init_state(params, optax.adam(1.0), jax.random.key(0)).opt_state[0]
    for moments in (adam.mu, adam.nu):
        names = by_path(moments).keys()
        assert names == {name for name in by_path(params) if is_thin(name) or "head" in name}
    # 2 layers; q and o 16 x 16, up 16 x 24, down 24 x 16; and a head of 16.
    assert sum(leaf.size for leaf in jax.tree.leaves(adam.mu)) == 2 * 3 * (32 + 32 + 40 + 40) + 16


def test_gradients_follow_from_those_of_the_whole_kernel_by_the_chain_rule() -> None:
    """With W' = W + s A B: dL/dA = s dL/dW' B^T and dL/dB = s A^T dL/dW'; a single step of descent shows both."""
    with jax.enable_x64(True):
        loss_sums, base, batches = tiny.sft_parts("float64")
        params = add_adapters(LORA, base, jax.random.key(5))
        rng = np.random.default_rng(2)
        draw = {name: 0.1 * rng.normal(size=leaf.shape) for name, leaf in by_path(params).items() if "lora_b" in name}
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: draw.get(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), params
        )
        params = jax.tree.map(jnp.asarray, params)
        step = jax.jit(partial(gradient_step, loss_sums, optax.sgd(1.0), axis_name=None))
        nothing = optax.sgd(1.0).init(trained(params))
        moved = by_path(step(params, nothing, batches[0])[0])
        dense = merge(params)
        whole = by_path(jax.tree.map(jnp.subtract, dense, step(dense, nothing, batches[0])[0]))
        old = by_path(params)
        for name in (name.removesuffix("/lora_a") for name in old if name.endswith("lora_a")):
            a, b, slope = old[f"{name}/lora_a"], old[f"{name}/lora_b"], whole[f"{name}/kernel"]
            turned = np.swapaxes(b, 1, 2), np.swapaxes(a, 1, 2)
            for leaf, expected in (("lora_a", slope @ turned[0]), ("lora_b", turned[1] @ slope)):
                found = old[f"{name}/{leaf}"] - moved[f"{name}/{leaf}"]
                np.testing.assert_allclose(found, 2.0 * expected, rtol=0, atol=1e-12)
                assert np.abs(found).max() > 1e-5
