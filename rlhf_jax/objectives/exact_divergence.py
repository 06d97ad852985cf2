"""The divergence of two next-token laws summed over the whole vocabulary, a chunk of tokens at a time."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlhf_jax.objectives.divergences import Divergence
from rlhf_jax.objectives.likelihood import LogitsOf, read_chunks
from rlhf_jax.unpadding import Line


def divergence_of_logits(
    divergence: Divergence,
    logits: Float[Array, "T V"],
    ref_logits: Float[Array, "T V"],
    temperature: float | Float[Array, ""] = 1.0,
) -> Float[Array, "T"]:
    """D_f(pi(.|s_t) || ref(.|s_t)) for t in [0, T), both softmax(logits / temperature), in at least float32.

    No gradient flows to the reference. Logits are finite.
    """
    logp, ref_logp = (
        jax.nn.log_softmax(raw.astype(jnp.promote_types(raw.dtype, jnp.float32)) / temperature, axis=-1)
        for raw in (logits, jax.lax.stop_gradient(ref_logits))
    )
    ratios = logp - ref_logp
    # pi f(u) / u where pi is the larger and ref f(u) where ref is: the same number, by the exponents that are small.
    # At u = 1 either is right, gradient too; the branch that is not taken stands at u = 1 and is finite.
    larger = ratios > 0
    above = jnp.exp(logp) * divergence.per_sample(jnp.where(larger, ratios, 0.0))
    below = jnp.exp(ref_logp) * divergence.value_of_log(jnp.where(larger, 0.0, ratios))
    return jnp.sum(jnp.where(larger, above, below), axis=-1)


def side_by_side(
    hidden: Float[Array, "B T D"], ref_hidden: Float[Array, "B T E"], logits_of: LogitsOf, ref_logits_of: LogitsOf
) -> tuple[Float[Array, "B T D+E"], LogitsOf]:
    """(both hidden states in one array, what makes of it the logits of the policy followed by those of the reference):
    what ``likelihood.read_chunks`` reads. ``apart`` takes the logits apart again.
    """
    width = hidden.shape[-1]

    def joint(both: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        mine, other = both[..., :width].astype(hidden.dtype), both[..., width:].astype(ref_hidden.dtype)
        return jnp.concatenate([logits_of(mine), ref_logits_of(other)], axis=-1)

    return jnp.concatenate([hidden, jax.lax.stop_gradient(ref_hidden)], axis=-1), joint


def apart(logits: Float[Array, "S W"]) -> tuple[Float[Array, "S V"], Float[Array, "S V"]]:
    """(logits of the policy, logits of the reference), W = 2 V."""
    mine, other = jnp.split(logits, 2, axis=-1)
    return mine, other


def chunked_divergence(
    divergence: Divergence,
    hidden: Float[Array, "B T D"],
    ref_hidden: Float[Array, "B T E"],
    logits_of: LogitsOf,
    ref_logits_of: LogitsOf,
    *,
    temperature: float | Float[Array, ""] = 1.0,
    chunk: int | None = None,
    line: Line | None = None,
) -> Float[Array, "B T"]:
    """``divergence_of_logits`` of every row, where the logits of all tokens never exist, forward or backward."""
    both, joint = side_by_side(hidden, ref_hidden, logits_of, ref_logits_of)

    def read(logits: Float[Array, "S W"], _: Int[Array, "S"]) -> Float[Array, "S"]:
        return partial(divergence_of_logits, divergence, temperature=temperature)(*apart(logits))

    return read_chunks(read, both, jnp.zeros(hidden.shape[:2], int), joint, chunk=chunk, line=line)
