"""Reward modelling from every kind of feedback: orders under prompt-aware utilities, choices, ties and verdicts."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.learners.step import LossSums
from rlhf_jax.models import ONE_MODEL, DecoderSpec, EnsembleSpec, apply_reward_lists
from rlhf_jax.objectives.choices import plackett_luce_loss
from rlhf_jax.objectives.masked import masked_sum
from rlhf_jax.objectives.numeric import centering_loss, label_loss, score_loss
from rlhf_jax.objectives.ranking import prompt_aware_loss
from rlhf_jax.objectives.ties import davidson_loss, rao_kupper_loss
from rlhf_jax.objectives.utilities import Utility
from rlhf_jax.types import Params, RankBatch, without_tokens

Loss = Literal["utility", "plackett_luce", "rao_kupper", "davidson"]


@dataclasses.dataclass(frozen=True)
class FeedbackSpec:
    """Which feedback trains the model and how; a list that has several kinds is trained on their weighted sum.

    ``loss`` is that of comparisons. ``top`` is Plackett-Luce's (0: all choices), ``tie`` the threshold of Rao-Kupper or
    the weight of Davidson, ``margin`` multiplies the margins of the data. ``scores`` are mapped from ``low``..``high``
    to 0..1 before they meet rewards.
    """

    loss: Loss = "utility"
    top: int = 0
    tie: float = 0.5
    label_smoothing: float = 0.0
    margin: float = 0.0
    centering: float = 0.0
    ranks: float = 1.0
    labels: float = 1.0
    scores: float = 0.0
    huber: float = 0.0
    low: float = 0.0
    high: float = 1.0


@dataclasses.dataclass(frozen=True)
class RewardSpec:
    """A reward model: its decoder, whether its rewards are confined to [0, 1], and the utilities a list may name.

    ``weights`` multiply the ranking loss of the lists under each utility (None: all by 1).
    """

    decoder: DecoderSpec
    bounded: bool
    utilities: tuple[Utility, ...]
    weights: tuple[float, ...] | None = None
    feedback: FeedbackSpec = FeedbackSpec()


def list_rewards(spec: RewardSpec, params: Params, batch: RankBatch) -> Float[Array, "B K"]:
    """The reward of every response, each encoded once, after its prompt, which is encoded once for all of them."""
    return member_rewards(spec, ONE_MODEL, params, batch)[0]


def member_rewards(spec: RewardSpec, ensemble: EnsembleSpec, params: Params, batch: RankBatch) -> Float[Array, "M B K"]:
    """The reward of every response by every member of an ensemble."""
    return apply_reward_lists(spec.decoder, params, batch, bounded=spec.bounded, ensemble=ensemble)


def loss_sums(spec: RewardSpec, params: Params, batch: RankBatch) -> LossSums:
    """The loss of each list that has feedback to train on, summed with the lists' weights."""
    return loss_of_rewards(spec, list_rewards(spec, params, batch), batch)


def loss_of_rewards(
    spec: RewardSpec, rewards: Float[Array, "B K"], batch: RankBatch, counts: Float[Array, "B"] | None = None
) -> LossSums:
    """``loss_sums`` of these rewards; ``counts`` multiply the losses of the lists, but not what they are divided by."""
    losses, counted = jax.vmap(lambda own, one: _list_loss(spec, own, one))(rewards, without_tokens(batch))
    gaps = rewards[:, :, None] - rewards[:, None, :]
    right = jnp.where(gaps == 0, 0.5, gaps > 0).astype(gaps.dtype)
    real = jnp.sum(batch.response_mask)
    metrics = {
        "pair_accuracy": (masked_sum(right, batch.better), jnp.sum(batch.better)),
        "reward_mean": (masked_sum(rewards, batch.response_mask), real),
        "gap_mean": (masked_sum(gaps, batch.better), jnp.sum(batch.better)),
    }
    taken = batch.weight if counts is None else batch.weight * counts
    return LossSums(masked_sum(losses * taken, counted), masked_sum(batch.weight, counted), metrics)


def _list_loss(
    spec: RewardSpec, rewards: Float[Array, "K"], one: RankBatch
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Loss of one list, and whether it has feedback that is trained on."""
    feedback = spec.feedback
    labelled, scored = (~jnp.isnan(values) & one.response_mask for values in (one.labels, one.scores))
    total, counted = jnp.zeros((), rewards.dtype), jnp.zeros((), bool)
    if feedback.ranks:
        total += feedback.ranks * _ranking_loss(spec, rewards, one)
        judged = one.better | one.tied if feedback.loss in ("rao_kupper", "davidson") else one.better
        counted |= jnp.any(judged)
    if feedback.labels:
        total += feedback.labels * label_loss(rewards=rewards, labels=one.labels, mask=labelled, bounded=spec.bounded)
        counted |= jnp.any(labelled)
    if feedback.scores:
        scores = (one.scores - feedback.low) / (feedback.high - feedback.low)
        total += feedback.scores * score_loss(rewards=rewards, scores=scores, mask=scored, huber=feedback.huber)
        counted |= jnp.any(scored)
    if feedback.centering:
        centre = 0.5 if spec.bounded else 0.0
        total += feedback.centering * centering_loss(rewards=rewards, mask=one.response_mask, centre=centre)
    return total, counted


def _ranking_loss(spec: RewardSpec, rewards: Float[Array, "K"], one: RankBatch) -> Float[Array, ""]:
    feedback = spec.feedback
    if feedback.loss == "plackett_luce":
        return plackett_luce_loss(rewards=rewards, better=one.better, top=feedback.top)
    if feedback.loss == "rao_kupper":
        return rao_kupper_loss(rewards=rewards, better=one.better, tied=one.tied, threshold=feedback.tie)
    if feedback.loss == "davidson":
        return davidson_loss(rewards=rewards, better=one.better, tied=one.tied, weight=feedback.tie)
    loss = prompt_aware_loss(
        rewards=rewards,
        ranks=one.ranks,
        mask=one.response_mask,
        utilities=spec.utilities,
        index=one.utility,
        better=one.better,
        margin=feedback.margin * one.margin,
        label_smoothing=feedback.label_smoothing,
    )
    return loss if spec.weights is None else loss * jnp.asarray(spec.weights, loss.dtype)[one.utility]
