"""Supervised fine-tuning: the likelihood of the responses, packed."""

from functools import partial

import jax.numpy as jnp

from rlhf_jax.learners.step import LossSums
from rlhf_jax.models import DecoderSpec, apply_decoder, output_logits
from rlhf_jax.objectives.likelihood import read_chunks, token_hits, token_logprobs
from rlhf_jax.objectives.masked import masked_sum
from rlhf_jax.types import Params, TokenBatch


def loss_sums(spec: DecoderSpec, params: Params, batch: TokenBatch) -> LossSums:
    """Negative log-likelihood of the response tokens: nats, weight in tokens; prompt tokens are read, not predicted."""
    hidden = apply_decoder(spec, params, batch.ids, batch.positions, batch.segments)
    logprobs, hits = read_chunks(
        lambda logits, ids: (token_logprobs(logits, ids), token_hits(logits, ids)),
        hidden[:, :-1],
        batch.ids[:, 1:],
        partial(output_logits, spec, params),
    )
    targets = batch.loss_mask[:, 1:]
    tokens = jnp.sum(targets)
    return LossSums(-masked_sum(logprobs, targets), tokens, {"token_accuracy": (masked_sum(hits, targets), tokens)})
