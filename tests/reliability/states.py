"""States to be saved whose every bit follows from a rule of integers, and what a restored one is compared by."""

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax.types import TrainState


def values(name: str, step: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Numbers in [-1, 1) for floats, any for integers: a hash of the place, of ``name`` and of ``step``."""
    place = np.arange(int(np.prod(shape)), dtype=np.uint64)
    start = np.uint64(zlib.crc32(f"{name} {step}".encode()))
    mixed = ((place * np.uint64(2654435761) + start) * np.uint64(2246822519) >> np.uint64(13)) % np.uint64(2**32)
    if jnp.issubdtype(dtype, jnp.floating):
        return (mixed.astype(np.float64) / 2**31 - 1).astype(np.float32).astype(dtype).reshape(shape)
    if dtype == jnp.bool_:
        mixed = mixed % np.uint64(2)
    return mixed.astype(np.uint32).astype(dtype).reshape(shape)


def state(step: int, dtype: Any = jnp.float32) -> TrainState:
    """Parameters of ``dtype``, codes of few bits, moments, numbers that are none, a key."""

    def of(name: str, *shape: int, dtype: Any = dtype) -> jax.Array:
        return jnp.asarray(values(name, step, shape, dtype))

    params = {
        "embedding": of("embedding", 24, 16),
        "layers": {
            "up": {"kernel": of("up", 2, 16, 8)},
            "down": {"kernel_codes": of("codes", 2, 8, 8, dtype=jnp.int8), "kernel_scale": of("scale", 2, 1, 8)},
            "gate": {"kernel_codes": of("pairs", 2, 4, 8, dtype=jnp.uint8), "kernel_scale": of("blocks", 2, 1, 8)},
        },
        "final_norm": {"scale": of("norm", 16)},
    }
    odd = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    moments = {"embedding": of("mu", 24, 16, dtype=jnp.float32), "odd": jnp.asarray(odd)}
    adam = optax.ScaleByAdamState(jnp.int32(step), moments, {"embedding": of("nu", 24, 16, dtype=jnp.float32)})
    key = jax.random.wrap_key_data(jnp.asarray(values("key", step, (2,), np.uint32)))
    extra = {"kl_coefficient": of("kl", dtype=jnp.float32), "mask": of("mask", 5, dtype=jnp.bool_)}
    return TrainState(jnp.int32(step), params, (adam, optax.EmptyState()), key, extra)


def large(step: int, numbers: int, dtype: Any = jnp.float32) -> TrainState:
    """The same with so many numbers more, for the arrays to be most of what is on disk."""
    made = state(step, dtype)
    more = jnp.asarray(values("large", step, (numbers,), dtype))
    return dataclasses.replace(made, params={**made.params, "large": more})


def meta(step: int) -> dict[str, Any]:
    return {"batches": {"next": 7 * step, "order": [step, 1, 0]}, "monitor": {"fired": [], "worst": step / 3}}


def blank(like: TrainState) -> TrainState:
    return jax.tree.map(jnp.zeros_like, like)


def bits(tree: Any) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    """Every array: path, type, shape and content."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        found.append((jax.tree_util.keystr(path), str(leaf.dtype), array.shape, array.tobytes()))
    return found
