"""Direct preference optimisation: the policy itself is trained on judged responses, through its implicit rewards.

Each response is encoded once, however many comparisons it is part of, and each prompt once, however many responses
it has.
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.learners.step import LossSums, Metrics, sum_over_devices, train_step
from rlhf_jax.models import DecoderSpec, of_responses, output_logits, read_lists
from rlhf_jax.objectives import preference
from rlhf_jax.objectives.choices import plackett_luce_loss
from rlhf_jax.objectives.divergences import Divergence
from rlhf_jax.objectives.implicit import chi_rewards, log_odds, log_ratios
from rlhf_jax.objectives.likelihood import chunked_logprobs
from rlhf_jax.objectives.masked import masked_mean, masked_sum
from rlhf_jax.types import Params, PreferenceBatch, RankBatch, TrainState, without_tokens

Loss = Literal["dpo", "rdpo", "ipo", "hinge", "kto", "orpo", "simpo", "f_dpo", "chi_po"]


@dataclasses.dataclass(frozen=True)
class PreferenceSpec:
    """Which loss, and its constants; each is explained in ``rlhf_jax/config/dpo.py``.

    ``temperature`` is that of the policy's log-probabilities.
    """

    decoder: DecoderSpec
    loss: Loss = "dpo"
    beta: float = 0.1
    label_smoothing: float = 0.0
    divergence: Divergence | None = None
    gamma: float = 0.0
    nll: float = 0.0
    lambda_: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0
    clip: float = 1.0
    margin: float = 0.0
    length_normalized: bool = False
    lists: Literal["all_pairs", "plackett_luce"] = "all_pairs"
    temperature: float = 1.0

    @property
    def mismatched(self) -> bool:
        """Whether batches have one more column, a response to another prompt."""
        return self.loss == "kto"


def response_logprobs(spec: PreferenceSpec, params: Params, batch: PreferenceBatch) -> Float[Array, "B K"]:
    """Summed log-probability of each response given its prompt, in nats; 0 of one that does not exist."""
    lists, logits_of = batch.lists, partial(output_logits, spec.decoder, params)
    states = read_lists(spec.decoder, params, lists)[:, :, :-1]  # that each token is predicted from
    flat_states, ids = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in (states, lists.ids))
    logprobs = chunked_logprobs(flat_states, ids, logits_of, temperature=spec.temperature).reshape(lists.ids.shape)
    return of_responses(lists, jnp.sum(jnp.where(lists.mask, logprobs, 0.0), axis=2))


def response_lengths(lists: RankBatch) -> Int[Array, "B K"]:
    """Tokens of each response, end of sequence included; 0 of one that does not exist."""
    return of_responses(lists, jnp.sum(lists.mask, axis=2))


def loss_sums(
    spec: PreferenceSpec, params: Params, batch: PreferenceBatch, *, axis_name: str | None = None
) -> LossSums:
    """The loss of each list that has something to train on, summed with the lists' weights.

    ``axis_name`` is that of the devices over which the KL of KTO's baseline is estimated.
    """
    logprobs = response_logprobs(spec, params, batch)
    return loss_of_logprobs(spec, logprobs, batch, axis_name=axis_name)


def loss_of_logprobs(
    spec: PreferenceSpec, logprobs: Float[Array, "B K"], batch: PreferenceBatch, *, axis_name: str | None = None
) -> LossSums:
    """``loss_sums`` of these log-probabilities under the policy."""
    lists, lengths = batch.lists, response_lengths(batch.lists).astype(logprobs.dtype)
    rewards = jax.vmap(partial(implicit_rewards, spec))(logprobs, batch.ref_logprobs, lengths)
    kl = _mismatched_kl(spec, rewards, lists, axis_name) if spec.mismatched else jnp.zeros((), logprobs.dtype)
    losses, counted = jax.vmap(partial(_list_loss, spec, kl))(rewards, logprobs, lengths, without_tokens(lists))
    metrics = _metrics(spec, rewards, logprobs, lengths, batch)
    if spec.mismatched:
        metrics["baseline"] = (kl * jnp.sum(counted), jnp.sum(counted))
    return LossSums(masked_sum(losses * lists.weight, counted), masked_sum(lists.weight, counted), metrics)


def update(
    spec: PreferenceSpec,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: PreferenceBatch,
    *,
    axis_name: str | None = None,
    microbatches: int = 1,
) -> tuple[TrainState, Metrics]:
    """One step on a batch of lists."""
    loss = partial(loss_sums, spec, axis_name=axis_name)
    return train_step(loss, optimizer, state, batch, axis_name=axis_name, microbatches=microbatches)


def implicit_rewards(
    spec: PreferenceSpec, logprobs: Float[Array, "K"], ref_logprobs: Float[Array, "K"], lengths: Float[Array, "K"]
) -> Float[Array, "K"]:
    """What the loss compares, of ONE prompt's responses: beta times a log-ratio (in nats) or what stands for it."""
    if spec.loss == "simpo":
        return spec.beta * logprobs / jnp.maximum(lengths, 1)
    if spec.loss == "orpo":
        return log_odds(logprobs / jnp.maximum(lengths, 1))
    ratios = log_ratios(logprobs, ref_logprobs, lengths if spec.length_normalized else None)
    if spec.loss == "chi_po":
        return spec.beta * chi_rewards(ratios)
    if spec.loss == "f_dpo" and spec.divergence is not None:
        return spec.beta * spec.divergence.slope_of_log(ratios)
    return ratios if spec.loss == "ipo" else spec.beta * ratios


def _mismatched_kl(
    spec: PreferenceSpec, rewards: Float[Array, "B K"], lists: RankBatch, axis_name: str | None
) -> Float[Array, ""]:
    """KTO's baseline: beta max(0, mean log-ratio of responses to other prompts), a biased low-variance KL."""
    apart = response_lengths(lists)[:, -1] > 0
    sums = jax.lax.stop_gradient((masked_sum(rewards[:, -1], apart), jnp.sum(apart)))
    total, count = sum_over_devices(sums, axis_name)
    return jnp.maximum(total / jnp.maximum(count, 1), 0.0)


def _list_loss(
    spec: PreferenceSpec,
    kl: Float[Array, ""],
    rewards: Float[Array, "K"],
    logprobs: Float[Array, "K"],
    lengths: Float[Array, "K"],
    one: RankBatch,
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Loss of one list, and whether it has anything to train on."""
    if spec.loss == "kto":
        good, bad = preference.verdict_counts(one.better, one.labels, one.response_mask)
        loss = preference.kahneman_tversky_loss(
            rewards=rewards,
            baseline=kl,
            good=good.astype(rewards.dtype),
            bad=bad.astype(rewards.dtype),
            desirable=spec.desirable,
            undesirable=spec.undesirable,
        )
        return loss, jnp.any(good + bad > 0)
    if spec.lists == "plackett_luce":
        loss = plackett_luce_loss(rewards=rewards, better=one.better)
    else:
        loss = preference.mean_over_pairs(
            rewards=rewards, better=one.better, term=partial(_term, spec), margin=spec.margin * one.margin
        )
    per_token = spec.loss == "orpo" or spec.length_normalized
    negative = -logprobs / jnp.maximum(lengths, 1) if per_token else -logprobs
    likelihood = masked_mean(negative, preference.unbeaten(one.better)) if spec.loss == "orpo" or spec.nll else 0.0
    total = likelihood + spec.lambda_ * loss if spec.loss == "orpo" else loss + spec.nll * likelihood
    return total, jnp.any(one.better)


def _term(spec: PreferenceSpec, gaps: Float[Array, "K K"]) -> Float[Array, "K K"]:
    """The loss of each pair by its gap of implicit rewards."""
    if spec.loss == "rdpo":
        return preference.robust(gaps, spec.label_smoothing)
    if spec.loss == "ipo":
        return preference.squared(gaps, spec.beta)
    if spec.loss == "hinge":
        return preference.hinge(gaps)
    if spec.loss == "chi_po":
        return preference.clipped(gaps, 2.0 * spec.clip)
    return preference.logistic(gaps - spec.gamma, spec.label_smoothing)


def _metrics(
    spec: PreferenceSpec,
    rewards: Float[Array, "B K"],
    logprobs: Float[Array, "B K"],
    lengths: Float[Array, "B K"],
    batch: PreferenceBatch,
) -> dict[str, tuple[Array, Array]]:
    """Over pairs: accuracy and gap of implicit rewards, the better and the worse response of each (``chosen``,
    ``rejected``; of KTO its verdicts); ``log_ratio`` is the mean over responses, in nats.
    """
    lists = batch.lists
    gaps = rewards[:, :, None] - rewards[:, None, :]
    right = jnp.where(gaps == 0, 0.5, gaps > 0).astype(gaps.dtype)
    pairs = jnp.sum(lists.better)
    labels = lists.labels if spec.loss == "kto" else jnp.full_like(lists.labels, jnp.nan)
    good, bad = (
        counts.astype(rewards.dtype)
        for counts in jax.vmap(preference.verdict_counts)(lists.better, labels, lists.response_mask)
    )
    metrics = {
        "pair_accuracy": (masked_sum(right, lists.better), pairs),
        "gap_mean": (masked_sum(gaps, lists.better), pairs),
        "nll": (jnp.sum(-good * logprobs), jnp.sum(good * lengths)),
        "log_ratio": (
            masked_sum(logprobs - batch.ref_logprobs, lists.response_mask),
            jnp.sum(lists.response_mask),
        ),
    }
    for name, counts in (("chosen", good), ("rejected", bad)):
        metrics[f"implicit.{name}"] = (jnp.sum(counts * rewards), jnp.sum(counts))
        metrics[f"logprob.{name}"] = (jnp.sum(counts * logprobs), jnp.sum(counts))
    return metrics
