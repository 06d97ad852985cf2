"""Attention in blocks of queries, for CPUs: a block meets the slots up to its own end, and nothing beyond.

Half of all scores lie above the diagonal and are never computed, and those of one block of one row fit a processor's
caches, in rows of up to some 1,024 tokens. For the backward pass each query keeps what it found and the logarithm of
its sum of weights, from which weights are computed again. Source: Dao et al. 2022, FlashAttention.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from rlhf_jax.mesh import mesh_in_use
from rlhf_jax.models.masks import UNSEEN
from rlhf_jax.models.precision import wide_einsum
from rlhf_jax.models.spec import DecoderSpec

QUERIES, BLOCKS = 128, 8  # of a block as many queries, or more where there would be more blocks, for each is compiled


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def mix_in_blocks(
    spec: DecoderSpec,
    query: Float[Array, "B G R T C"],
    key: Float[Array, "B G T C"],
    value: Float[Array, "B G T C"],
    mask: Bool[Array, "B T T"],
) -> Float[Array, "B G R T C"]:
    """softmax(scale * q k) v over what ``mask[b, t, s]`` lets token t see, which is nothing of s > t.

    Each of G heads of keys serves R of queries.
    """
    return _forward(spec, query, key, value, mask)[0]


def _forward(spec: DecoderSpec, *arrays: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    mixed, total = (checkpoint_name(x, "attention") for x in _each_row(partial(_forward_row, spec), arrays))
    return mixed, (*arrays, mixed, total)


def _backward(spec: DecoderSpec, kept: tuple[jax.Array, ...], out: jax.Array) -> tuple[jax.Array | None, ...]:
    return *_each_row(partial(_backward_row, spec), (*kept, out)), None


mix_in_blocks.defvjp(_forward, _backward)


def _each_row(function: Callable[..., Any], arrays: tuple[jax.Array, ...]) -> Any:
    """One row after the other, whose scores the caches hold; all at once where a mesh has split them."""
    if mesh_in_use() is not None or len(arrays[0]) == 1:
        return jax.vmap(function)(*arrays)
    return jax.lax.map(lambda row: function(*row), arrays)


def _blocks(length: int) -> Iterator[tuple[slice, slice]]:
    """(queries, slots up to their end) of each block."""
    size = -(-length // min(-(-length // QUERIES), BLOCKS))
    for start in range(0, length, size):
        end = min(start + size, length)
        yield slice(start, end), slice(end)


def _scores(spec: DecoderSpec, query: Float[Array, "G R Q C"], key: Float[Array, "G S C"]) -> Float[Array, "G R Q S"]:
    scores = wide_einsum("grtc,gsc->grts", query, key) * spec.attention_scale
    return spec.attention_softcap * jnp.tanh(scores / spec.attention_softcap) if spec.attention_softcap else scores


def _forward_row(
    spec: DecoderSpec,
    query: Float[Array, "G R T C"],
    key: Float[Array, "G T C"],
    value: Float[Array, "G T C"],
    mask: Bool[Array, "T T"],
) -> tuple[Float[Array, "G R T C"], Float[Array, "G R T 1"]]:
    """(what each query found, the logarithm of the sum of exp(score) over what it saw)."""
    mixed, totals = [], []
    for own, seen in _blocks(len(mask)):
        scores = jnp.where(mask[own, seen], _scores(spec, query[:, :, own], key[:, seen]), UNSEEN)
        largest = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        found = wide_einsum("grts,gsc->grtc", weights.astype(value.dtype), value[:, seen])
        mixed.append((found / total).astype(value.dtype))
        totals.append(largest + jnp.log(total))
    return jnp.concatenate(mixed, axis=2), jnp.concatenate(totals, axis=2)


def _backward_row(
    spec: DecoderSpec,
    query: Float[Array, "G R T C"],
    key: Float[Array, "G T C"],
    value: Float[Array, "G T C"],
    mask: Bool[Array, "T T"],
    mixed: Float[Array, "G R T C"],
    total: Float[Array, "G R T 1"],
    out: Float[Array, "G R T C"],
) -> tuple[Float[Array, "G R T C"], Float[Array, "G T C"], Float[Array, "G T C"]]:
    """The gradients of queries, keys and values, where ``out`` is that of ``mixed``."""
    dtype, wide = query.dtype, total.dtype
    # Weights w have the gradient w (g - sum of w g), and that sum over slots is one over channels.
    mean = jnp.sum(out.astype(wide) * mixed, axis=-1, keepdims=True)
    of_query, of_key, of_value = [], jnp.zeros(key.shape, wide), jnp.zeros(value.shape, wide)
    for own, seen in _blocks(len(mask)):
        scores, found = _scores(spec, query[:, :, own], key[:, seen]), out[:, :, own]
        weights = jnp.exp(jnp.where(mask[own, seen], scores - total[:, :, own], UNSEEN))
        of_scores = weights * (wide_einsum("grtc,gsc->grts", found, value[:, seen]) - mean[:, :, own])
        if spec.attention_softcap:
            of_scores *= 1.0 - (scores / spec.attention_softcap) ** 2
        of_scores = (of_scores * spec.attention_scale).astype(dtype)
        of_query.append(wide_einsum("grts,gsc->grtc", of_scores, key[:, seen]).astype(dtype))
        of_key = of_key.at[:, seen].add(wide_einsum("grts,grtc->gsc", of_scores, query[:, :, own]))
        of_value = of_value.at[:, seen].add(wide_einsum("grts,grtc->gsc", weights.astype(dtype), found))
    return jnp.concatenate(of_query, axis=2), of_key.astype(dtype), of_value.astype(dtype)
