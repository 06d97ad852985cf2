"""The summed likelihood of tokens whose weights are known beforehand, as in supervised fine-tuning.

A weighted sum of log-probabilities has the gradient w (one-hot - softmax) in its logits, which needs nothing that comes
after it. It is made of the logits while they exist, so that they are computed once, where ``likelihood.read_chunks``
computes them again for the gradient; and tokens without weight have no logits.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlhf_jax.mesh import ROWS, mesh_in_use, shards_of
from rlhf_jax.objectives.likelihood import token_hits, token_logprobs, tokens_at_once
from rlhf_jax.rows import each_row
from rlhf_jax.types import SEQUENCE, Params

LogitsOf: TypeAlias = Callable[[Params, Float[Array, "B S D"]], Float[Array, "B S V"]]


class Sums(NamedTuple):
    """Sums of weight * log-probability, in nats, and of weight * whether the target is the likeliest token."""

    logprobs: Float[Array, ""]
    hits: Float[Array, ""]


class _Parts(NamedTuple):
    """R rows of tokens in N parts of one size, of which the first ``used`` have any weight."""

    hidden: Float[Array, "N R S D"]
    targets: Int[Array, "N R S"]
    weights: Float[Array, "N R S"]
    used: Int[Array, ""] | int


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def summed_logprobs(
    logits_of: LogitsOf,
    chunk: int | None,
    head: Params,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> Sums:
    """Sums over all tokens; ``logits_of(head, hidden)`` for ``chunk`` of each row (None: ``tokens_at_once``) at a time.

    ``logprobs`` has a gradient in ``head`` and ``hidden``; ``weights`` count as constants, and so do ``hits``.
    """
    parts = _split(logits_of, chunk, head, hidden, targets, weights)[0]

    def add(number: Int[Array, ""], sums: Sums) -> Sums:
        logits = logits_of(head, parts.hidden[number])
        return _plus(sums, _read(logits, parts.targets[number], parts.weights[number])[0])

    return jax.lax.fori_loop(0, parts.used, add, _nothing(weights))


def _forward(
    logits_of: LogitsOf,
    chunk: int | None,
    head: Params,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> tuple[Sums, tuple[Params, jax.Array]]:
    """The sums, and the gradients of the first of them in head and hidden states."""
    parts, join = _split(logits_of, chunk, head, hidden, targets, weights)

    def add(number: Int[Array, ""], found: tuple[Sums, Params, jax.Array]) -> tuple[Sums, Params, jax.Array]:
        sums, of_head, of_hidden = found
        logits, backward = jax.vjp(logits_of, head, parts.hidden[number])
        own, of_logits = _read(logits, parts.targets[number], parts.weights[number])
        more, of_part = backward(of_logits)
        of_hidden = jax.lax.dynamic_update_index_in_dim(of_hidden, of_part, number, 0)
        return _plus(sums, own), jax.tree.map(jnp.add, of_head, more), of_hidden

    nothing = _nothing(weights), jax.tree.map(jnp.zeros_like, head), jnp.zeros_like(parts.hidden)
    sums, of_head, of_hidden = jax.lax.fori_loop(0, parts.used, add, nothing)
    return sums, (of_head, join(of_hidden))


def _backward(
    logits_of: LogitsOf, chunk: int | None, kept: tuple[Params, jax.Array], out: Sums
) -> tuple[Params, jax.Array, None, None]:
    of_head, of_hidden = jax.tree.map(lambda leaf: leaf * out.logprobs.astype(leaf.dtype), kept)
    return of_head, of_hidden, None, None


summed_logprobs.defvjp(_forward, _backward)


def _split(
    logits_of: LogitsOf, chunk: int | None, head: Params, *arrays: jax.Array
) -> tuple[_Parts, Callable[[jax.Array], jax.Array]]:
    """Hidden states, targets and weights in parts, and what puts such parts of hidden states together again.

    On one device the tokens of all rows are one row, those with weight first. On a mesh each device goes on reading its
    own rows and tokens: a part is every so many-th token of each row, and all parts are read.
    """
    *_, weights = arrays
    alone = mesh_in_use() is None
    rows = 1 if alone else len(weights)
    order = jnp.argsort(weights.reshape(rows, -1) == 0, axis=1, stable=True) if alone else None
    length = weights.size // rows
    if chunk is None:
        vocabulary = jax.eval_shape(logits_of, head, arrays[0][:, :1]).shape[-1]
        chunk = tokens_at_once(-(-rows // shards_of(ROWS)), vocabulary) * shards_of(SEQUENCE)
    count = -(-length // chunk)
    size = -(-length // count)

    def parted(leaf: jax.Array) -> jax.Array:
        leaf = leaf.reshape(rows, length, *leaf.shape[2:])
        leaf = leaf if order is None else leaf[0, order]
        leaf = jnp.pad(leaf, [(0, 0), (0, count * size - length)] + [(0, 0)] * (leaf.ndim - 2))
        if order is None:
            return jnp.moveaxis(leaf.reshape(rows, size, count, *leaf.shape[2:]), 2, 0)
        return leaf.reshape(count, rows, size, *leaf.shape[2:])

    def joined(parts: Float[Array, "N R S D"]) -> Float[Array, "B T D"]:
        if order is None:
            whole = jnp.moveaxis(parts, 0, 2).reshape(rows, size * count, -1)[:, :length]
        else:
            whole = parts.reshape(size * count, -1)[jnp.argsort(order[0])]
        return whole.reshape(arrays[0].shape)

    used = count if order is None else -(-jnp.count_nonzero(weights) // size)
    hidden, targets, weights = map(parted, arrays)
    return _Parts(hidden, targets, weights, used), joined


def _read(
    logits: Float[Array, "B S V"], targets: Int[Array, "B S"], weights: Float[Array, "B S"]
) -> tuple[Sums, Float[Array, "B S V"]]:
    """The sums, and the gradient of the first in the logits: weight * (one-hot - softmax)."""
    logprobs, hits = (each_row(function, logits, targets) for function in (token_logprobs, token_hits))
    softmax = jax.nn.softmax(logits.astype(logprobs.dtype), axis=-1)
    hot = jnp.arange(logits.shape[-1]) == targets[..., None]
    of_logits = (weights[..., None] * (hot - softmax)).astype(logits.dtype)
    return Sums(*(jnp.sum(jnp.where(weights == 0, 0.0, weights * found)) for found in (logprobs, hits))), of_logits


def _plus(one: Sums, other: Sums) -> Sums:
    return Sums(*(a + b for a, b in zip(one, other, strict=True)))


def _nothing(weights: Float[Array, "B T"]) -> Sums:
    return Sums(*(jnp.zeros((), weights.dtype) for _ in Sums._fields))
