"""Reward modelling from ranked lists (a pair is a list of two) under prompt-aware utilities."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.learners.step import LossSums
from rlhf_jax.models import DecoderSpec, apply_reward_model
from rlhf_jax.objectives.masked import masked_sum
from rlhf_jax.objectives.ranking import comparable_pairs, prompt_aware_loss
from rlhf_jax.objectives.utilities import Utility
from rlhf_jax.types import Params, RankBatch


@dataclasses.dataclass(frozen=True)
class RewardSpec:
    """A reward model: its decoder, whether its rewards are confined to [0, 1], and the utilities a list may name.

    ``weights`` multiply the loss of the lists under each utility (None: all by 1).
    """

    decoder: DecoderSpec
    bounded: bool
    utilities: tuple[Utility, ...]
    weights: tuple[float, ...] | None = None


def list_rewards(spec: RewardSpec, params: Params, batch: RankBatch) -> Float[Array, "B K"]:
    """The reward of every response, each encoded once."""
    rows, responses, length = batch.ids.shape
    flat = apply_reward_model(
        spec.decoder,
        params,
        batch.ids.reshape(rows * responses, length),
        batch.mask.reshape(rows * responses, length),
        bounded=spec.bounded,
    )
    return flat.reshape(rows, responses)


def loss_sums(spec: RewardSpec, params: Params, batch: RankBatch) -> LossSums:
    """Negative mean utility of a list's comparable pairs, summed over the lists that have such a pair."""
    rewards = list_rewards(spec, params, batch)

    def one_list(rewards: Float[Array, "K"], batch: RankBatch) -> Float[Array, ""]:
        return prompt_aware_loss(
            rewards=rewards,
            ranks=batch.ranks,
            mask=batch.response_mask,
            utilities=spec.utilities,
            index=batch.utility,
        )

    losses = jax.vmap(one_list)(rewards, batch)
    if spec.weights is not None:
        losses = losses * jnp.asarray(spec.weights, losses.dtype)[batch.utility]
    pairs = jax.vmap(comparable_pairs)(batch.ranks, batch.response_mask)
    counted = jnp.any(pairs, axis=(1, 2))
    gaps = rewards[:, :, None] - rewards[:, None, :]
    right = jnp.where(gaps == 0, 0.5, gaps > 0).astype(gaps.dtype)
    real = jnp.sum(batch.response_mask)
    metrics = {
        "pair_accuracy": (masked_sum(right, pairs), jnp.sum(pairs)),
        "reward_mean": (masked_sum(rewards, batch.response_mask), real),
        "gap_mean": (masked_sum(gaps, pairs), jnp.sum(pairs)),
    }
    return LossSums(masked_sum(losses, counted), jnp.sum(counted), metrics)
