"""Attention in blocks of queries and keys, for CPUs: only blocks that hold something to be seen are computed.

That is half of them where tokens see earlier ones, and fewer where several texts share a row. The scores of a block of
one row stay in a processor's caches, whatever the length. For the backward pass each query keeps what it found and the
logarithm of its sum of weights, from which weights are computed again. Source: Dao 2023, FlashAttention-2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.mesh import mesh_in_use
from rlhf_jax.models.masks import UNSEEN
from rlhf_jax.models.precision import wide_einsum
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.rows import each_row

BLOCK = 128  # queries, or keys, at most


def mix_in_blocks(
    spec: DecoderSpec,
    query: Float[Array, "B T G R C"],
    key: Float[Array, "B G T C"],
    value: Float[Array, "B G T C"],
    mask: Bool[Array, "B T T"],
) -> Float[Array, "B T G R C"]:
    """softmax(scale * q k) v over what ``mask[b, t, s]`` lets token t see, which is nothing of s > t.

    Each of G heads of keys serves R of queries.
    """
    rows, length = query.shape[:2]
    count = -(-length // BLOCK)
    size = -(-length // count)
    none, room = (0, 0), (0, count * size - length)
    query = jnp.pad(query, (none, room, none, none, none))
    key, value = (jnp.pad(x, (none, none, room, none)) for x in (key, value))
    mask = jnp.pad(mask, (none, room, room))
    if mesh_in_use() is None:
        seen = mask.reshape(rows, count, size, count * size).any(2).reshape(rows, count, count, size).any(3)
        first = jnp.argmax(seen | jnp.eye(count, dtype=bool), axis=2).astype(jnp.int32)
    else:  # whose devices have rows of their own, and go on together
        first = jnp.zeros((rows, count), jnp.int32)
    return _mix(spec, query, key, value, mask, first)[:, :length]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mix(
    spec: DecoderSpec,
    query: Float[Array, "B T G R C"],
    key: Float[Array, "B G T C"],
    value: Float[Array, "B G T C"],
    mask: Bool[Array, "B T T"],
    first: Int[Array, "B N"],
) -> Float[Array, "B T G R C"]:
    """Of N blocks of one size, where ``first`` is the first block of keys that any query of a block sees."""
    return _forward(spec, query, key, value, mask, first)[0]


def _forward(spec: DecoderSpec, *arrays: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    mixed, total = (checkpoint_name(x, "attention") for x in _each_row(partial(_forward_row, spec), arrays))
    return mixed, (*arrays, mixed, total)


def _backward(spec: DecoderSpec, kept: tuple[jax.Array, ...], out: jax.Array) -> tuple[jax.Array | None, ...]:
    return *_each_row(partial(_backward_row, spec), (*kept, out)), None, None


_mix.defvjp(_forward, _backward)


def _each_row(function: Callable[..., Any], arrays: tuple[jax.Array, ...]) -> Any:
    """One row after the other, whose scores the caches hold; all at once where a mesh has split them."""
    if mesh_in_use() is not None or len(arrays[0]) == 1:
        return each_row(function, *arrays)
    return jax.lax.map(lambda row: function(*row), arrays)


def _block(x: jax.Array, number: Int[Array, ""], size: int, axis: int = 0) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, number * size, size, axis)


def _queries(x: Float[Array, "T G R C"], number: Int[Array, ""], size: int) -> Float[Array, "G R Q C"]:
    return _block(x, number, size).transpose(1, 2, 0, 3)


def _put(whole: jax.Array, block: jax.Array, number: Int[Array, ""], axis: int = 0) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, block, number * block.shape[axis], axis)


def _capped(spec: DecoderSpec, scores: jax.Array) -> jax.Array:
    scores *= spec.attention_scale
    return spec.attention_softcap * jnp.tanh(scores / spec.attention_softcap) if spec.attention_softcap else scores


def _forward_row(
    spec: DecoderSpec,
    query: Float[Array, "T G R C"],
    key: Float[Array, "G T C"],
    value: Float[Array, "G T C"],
    mask: Bool[Array, "T T"],
    first: Int[Array, "N"],
) -> tuple[Float[Array, "T G R C"], Float[Array, "N G R Q"]]:
    """(what each query found, the logarithm of the sum of exp(score) over what it saw)."""
    count, size = len(first), len(query) // len(first)

    def block(number: Int[Array, ""]) -> tuple[Float[Array, "Q G R C"], Float[Array, "G R Q"]]:
        asked, seen = _queries(query, number, size), _block(mask, number, size)

        def look(at: Int[Array, ""], so_far: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            found, largest, total = so_far
            scores = _capped(spec, wide_einsum("grqc,gsc->grqs", asked, _block(key, at, size, 1)))
            scores = jnp.where(_block(seen, at, size, 1), scores, UNSEEN)
            larger = jnp.maximum(largest, jnp.max(scores, axis=-1))
            weights, less = jnp.exp(scores - larger[..., None]), jnp.exp(largest - larger)
            more = wide_einsum("grqs,gsc->grqc", weights.astype(value.dtype), _block(value, at, size, 1))
            return less[..., None] * found + more, larger, less * total + jnp.sum(weights, axis=-1)

        wide = jnp.promote_types(query.dtype, jnp.float32)
        nothing = (
            jnp.zeros(asked.shape, wide),
            jnp.full(asked.shape[:3], UNSEEN, wide),
            jnp.zeros(asked.shape[:3], wide),
        )
        found, largest, total = jax.lax.fori_loop(first[number], number + 1, look, nothing)
        mixed = (found / total[..., None]).astype(value.dtype)
        return mixed.transpose(2, 0, 1, 3), largest + jnp.log(total)

    mixed, totals = jax.lax.map(block, jnp.arange(count, dtype=jnp.int32))
    return mixed.reshape(query.shape), totals


def _backward_row(
    spec: DecoderSpec,
    query: Float[Array, "T G R C"],
    key: Float[Array, "G T C"],
    value: Float[Array, "G T C"],
    mask: Bool[Array, "T T"],
    first: Int[Array, "N"],
    mixed: Float[Array, "T G R C"],
    totals: Float[Array, "N G R Q"],
    out: Float[Array, "T G R C"],
) -> tuple[Float[Array, "T G R C"], Float[Array, "G T C"], Float[Array, "G T C"]]:
    """The gradients of queries, keys and values, where ``out`` is that of ``mixed``.

    Scores stand with keys before queries, so that one of the three products with them has to be turned, not two.
    """
    size, dtype, wide = len(query) // len(first), query.dtype, totals.dtype

    def block(number: Int[Array, ""], so_far: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        of_query, *of_keys = so_far
        asked, found, seen = _queries(query, number, size), _queries(out, number, size), _block(mask, number, size).T
        # Weights w have the gradient w (g - sum of w g), and that sum over slots is one over channels.
        mean = wide_einsum("grqc,grqc->grq", found, _queries(mixed, number, size))[:, None]
        total = totals[number][:, None]

        def look(at: Int[Array, ""], so_far: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            own, of_key, of_value = so_far
            keys, values = _block(key, at, size, 1), _block(value, at, size, 1)
            scores = _capped(spec, wide_einsum("gsc,grqc->gsrq", keys, asked))
            weights = jnp.exp(jnp.where(_block(seen, at, size)[:, None], scores - total, UNSEEN))
            of_scores = weights * (wide_einsum("gsc,grqc->gsrq", values, found) - mean)
            if spec.attention_softcap:
                of_scores *= 1.0 - (scores / spec.attention_softcap) ** 2
            of_scores = (of_scores * spec.attention_scale).astype(dtype)
            own += wide_einsum("gcs,gsrq->gcrq", keys.swapaxes(1, 2), of_scores)
            of_key = _add(of_key, wide_einsum("gsrq,grqc->gsc", of_scores, asked), at)
            of_value = _add(of_value, wide_einsum("gsrq,grqc->gsc", weights.astype(dtype), found), at)
            return own, of_key, of_value

        own = jnp.zeros((key.shape[0], key.shape[2], query.shape[2], size), wide)
        own, *of_keys = jax.lax.fori_loop(first[number], number + 1, look, (own, *of_keys))
        return _put(of_query, own.transpose(3, 0, 2, 1).astype(dtype), number), *of_keys

    nothing = jnp.zeros_like(query), jnp.zeros(key.shape, wide), jnp.zeros(value.shape, wide)
    of_query, of_key, of_value = jax.lax.fori_loop(jnp.int32(0), jnp.int32(len(first)), block, nothing)
    return of_query, of_key.astype(dtype), of_value.astype(dtype)


def _add(whole: Float[Array, "G T C"], more: Float[Array, "G S C"], number: Int[Array, ""]) -> Float[Array, "G T C"]:
    return _put(whole, _block(whole, number, more.shape[1], 1) + more, number, 1)
