"""Prompts are read once, however many rows have the same."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.mesh import mesh_in_use
from rlhf_jax.models import Cache, DecoderSpec, fill_cache, positions_of
from rlhf_jax.types import Params

LEAST_PROMPT = 32  # slots; shorter ones are read sooner than a second program is compiled


def read_prompts(
    spec: DecoderSpec,
    params: Params,
    ids: Int[Array, "B P"],
    mask: Bool[Array, "B P"],
    slots: int,
    samples: int,
) -> tuple[Float[Array, "B D"], Cache]:
    """(final hidden state of the last token of each prompt, a cache of so many slots).

    If no more than one in ``samples`` rows has a prompt of its own, which is looked at when the program runs, only
    these are read and their caches handed to all rows. On a mesh of several devices every row is read where it lies.
    """

    def read(ids: Int[Array, "N P"], mask: Bool[Array, "N P"]) -> tuple[Float[Array, "N D"], Cache]:
        hidden, cache = fill_cache(spec, params, ids, positions_of(mask), mask, slots, lambda x: x[:, -1:])
        return hidden[:, 0], cache

    rows, length = ids.shape
    most = -(-rows // samples)
    if most == rows or length < LEAST_PROMPT or mesh_in_use() is not None:
        return read(ids, mask)
    equal = jnp.all((ids[:, None] == ids) & (mask[:, None] == mask), axis=2)
    first = jnp.argmax(equal, axis=1)  # the first row with the same prompt
    is_first = first == jnp.arange(rows)
    number = jnp.cumsum(is_first) - 1  # of each first row among them

    def once() -> tuple[Float[Array, "B D"], Cache]:
        own = jnp.nonzero(is_first, size=most, fill_value=0)[0]
        found: tuple[Float[Array, "B D"], Cache] = jax.tree.map(
            lambda leaf: leaf[number[first]], read(ids[own], mask[own])
        )
        return found

    return jax.lax.cond(jnp.sum(is_first) <= most, once, lambda: read(ids, mask))
