"""Supervised fine-tuning: the likelihood of the responses, packed."""

from functools import partial

import jax.numpy as jnp

from rlhf_jax.learners.step import LossSums
from rlhf_jax.models import DecoderSpec, apply_decoder, output_head, output_logits
from rlhf_jax.objectives.summed import summed_logprobs
from rlhf_jax.types import Params, TokenBatch


def loss_sums(spec: DecoderSpec, params: Params, batch: TokenBatch) -> LossSums:
    """Negative log-likelihood of the response tokens: nats, weight in tokens; prompt tokens are read, not predicted."""
    hidden = apply_decoder(spec, params, batch.ids, batch.positions, batch.segments)
    targets = batch.loss_mask[:, 1:]
    weights = targets.astype(jnp.promote_types(hidden.dtype, jnp.float32))
    sums = summed_logprobs(
        partial(output_logits, spec), None, output_head(spec, params), hidden[:, :-1], batch.ids[:, 1:], weights
    )
    tokens = jnp.sum(targets)
    return LossSums(-sums.logprobs, tokens, {"token_accuracy": (sums.hits, tokens)})
