"""Fine-grained reward models: a decoder with one head for each aspect, read at the last token of every segment."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.learners.step import LossSums
from rlhf_jax.models import DecoderSpec, apply_token_heads
from rlhf_jax.objectives.masked import masked_sum
from rlhf_jax.objectives.segments import segment_losses
from rlhf_jax.types import Params, SegmentBatch


@dataclasses.dataclass(frozen=True)
class SegmentSpec:
    """The decoder, and the name of each aspect in the metrics."""

    decoder: DecoderSpec
    names: tuple[str, ...]


def token_logits(spec: SegmentSpec, params: Params, batch: SegmentBatch) -> Float[Array, "B T A"]:
    """The logit, at every token, that the segment ending there is good."""
    return apply_token_heads(spec.decoder, params, batch.ids, batch.mask)


def loss_sums(spec: SegmentSpec, params: Params, batch: SegmentBatch) -> LossSums:
    """Binary cross-entropy, the mean over the segments of each aspect of a response, over aspects and responses."""
    logits = token_logits(spec, params, batch)
    losses, counted = jax.vmap(lambda own, labels: segment_losses(logits=own, labels=labels))(logits, batch.labels)
    labelled = ~jnp.isnan(batch.labels)
    right = ((logits >= 0) == (batch.labels >= 0.5)).astype(logits.dtype)
    metrics = {}
    for place, name in enumerate(spec.names):
        own = labelled[..., place]
        metrics[f"accuracy.{name}"] = (masked_sum(right[..., place], own), jnp.sum(own))
        metrics[f"loss.{name}"] = (masked_sum(losses[..., place], counted[..., place]), jnp.sum(counted[..., place]))
    return LossSums(masked_sum(losses, counted), jnp.sum(counted), metrics)
