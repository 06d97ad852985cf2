"""Sampling with a key-value cache, one compiled program that stops when every row has ended."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.generation.sampling import SamplingSpec, sample_token
from rlhf_jax.models import (
    Cache,
    DecoderSpec,
    extend_cache,
    fill_cache,
    for_a_loop,
    gathered,
    output_logits,
    positions_of,
)
from rlhf_jax.objectives.likelihood import token_logprobs
from rlhf_jax.types import Params


class Completions(NamedTuple):
    """R response slots a row: ids (padding after the end), a prefix mask with EOS, log-probs in nats (0 past it)."""

    ids: Int[Array, "B R"]
    mask: Bool[Array, "B R"]
    logprobs: Float[Array, "B R"]


class _Loop(NamedTuple):
    t: Int[Array, ""]
    done: Bool[Array, "B"]
    out: Completions
    cache: Cache


def generate(
    spec: DecoderSpec,
    params: Params,
    prompt_ids: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"],
    row_keys: jax.Array,
    *,
    max_new_tokens: int,
    sampling: SamplingSpec,
    eos_id: int,
    pad_id: int,
) -> Completions:
    """Sample up to ``max_new_tokens`` tokens after each left-padded prompt.

    ``row_keys`` holds one key a row; the token at slot t is drawn with fold_in(row_key, t), so that a row's sample
    depends neither on the batch it stands in nor on the device. The log-probs are those of the whole softmax at the
    sampling temperature (at temperature 1 when greedy), top-k and top-p not applied: what training recomputes.
    """
    rows, prompt_length = prompt_ids.shape
    params = gathered(params, spec.compute_dtype)
    slots = prompt_length + max_new_tokens
    slot_mask = jnp.concatenate([prompt_mask, jnp.zeros((rows, max_new_tokens), bool)], axis=1)
    slot_index = jnp.arange(slots)
    next_position = jnp.sum(prompt_mask, axis=1, dtype=jnp.int32)
    temperature = sampling.temperature or 1.0

    def draw(t: Int[Array, ""], logits: Float[Array, "B V"], done: Bool[Array, "B"], out: Completions) -> Completions:
        keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, t)
        token = jax.vmap(lambda key, row: sample_token(sampling, key, row))(keys, logits)
        token = jnp.where(done, pad_id, token).astype(jnp.int32)
        logprob = jnp.where(done, 0.0, token_logprobs(logits, token, temperature))
        return Completions(
            jax.lax.dynamic_update_slice(out.ids, token[:, None], (jnp.zeros_like(t), t)),
            jax.lax.dynamic_update_slice(out.mask, ~done[:, None], (jnp.zeros_like(t), t)),
            jax.lax.dynamic_update_slice(
                out.logprobs, logprob[:, None].astype(out.logprobs.dtype), (jnp.zeros_like(t), t)
            ),
        )

    def ended(t: Int[Array, ""], done: Bool[Array, "B"], out: Completions) -> Bool[Array, "B"]:
        return done | (jax.lax.dynamic_slice_in_dim(out.ids, t, 1, axis=1)[:, 0] == eos_id)

    hidden, cache = fill_cache(spec, params, prompt_ids, positions_of(prompt_mask), prompt_mask, slots)
    params = for_a_loop(spec, params)
    logits = output_logits(spec, params, hidden[:, -1])
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    out = Completions(
        jnp.full((rows, max_new_tokens), pad_id, jnp.int32),
        jnp.zeros((rows, max_new_tokens), bool),
        jnp.zeros((rows, max_new_tokens), wide),
    )
    start = jnp.zeros((), jnp.int32)
    nobody = jnp.zeros((rows,), bool)
    out = draw(start, logits, nobody, out)

    def unfinished(loop: _Loop) -> Bool[Array, ""]:
        return (loop.t < max_new_tokens) & ~jnp.all(loop.done)

    def advance(loop: _Loop) -> _Loop:
        """Read token t - 1, draw token t."""
        slot = prompt_length + loop.t - 1
        token = jax.lax.dynamic_slice_in_dim(loop.out.ids, loop.t - 1, 1, axis=1)
        view = slot_mask | ((slot_index >= prompt_length) & (slot_index <= slot))[None]
        position = (next_position + loop.t - 1)[:, None]
        hidden, cache = extend_cache(spec, params, token, position, view[:, None], loop.cache, slot)
        out = draw(loop.t, output_logits(spec, params, hidden[:, 0]), loop.done, loop.out)
        return _Loop(loop.t + 1, ended(loop.t, loop.done, out), out, cache)

    first = _Loop(start + 1, ended(start, nobody, out), out, cache)
    return jax.lax.while_loop(unfinished, advance, first).out
